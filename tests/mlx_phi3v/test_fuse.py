"""A fused model computes what base and adapter do, on both backends, and is a base of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.adapters import LANGUAGE, VISION, AdapterArgs, load_adapter, save_adapter
from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.headers import open_checkpoint
from mlx_phi3v.checkpoint.layout import is_quantized
from mlx_phi3v.config import load_model_config
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_file
from mlx_phi3v.fuse import FuseConfig, fuse, main
from tests.mlx_phi3v.test_adapters import FULL, batch_of, filled

mx = pytest.importorskip("mlx.core")
pytest.importorskip("torch")
pytestmark = pytest.mark.numeric


def base_of(kind: str, checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as it is, in bf16, or packed."""
    if kind == "float32":
        return checkpoint
    options: dict[str, Any] = (
        {"dtype": "bfloat16"} if kind == "bfloat16" else {"quantize": True, "q_bits": int(kind[0]), "q_group_size": 32}
    )
    convert(ConvertConfig(str(checkpoint), folder / kind, **options))
    return folder / kind


def saved(base: Path, folder: Path, adapter: AdapterArgs = FULL) -> Path:
    save_adapter(folder, adapter, filled(base, adapter), base_fingerprint(base))
    return folder


def logits_of(backend_name: str, folder: Path, adapter: Path | None = None) -> np.ndarray:
    backend = load_backend(backend_name, folder, dtype="float32")
    if adapter is not None:
        backend.set_adapter(*load_adapter(adapter, backend.config, base_fingerprint(folder)), trainable=False)
    batch = batch_of(folder)
    logits: np.ndarray = backend.forward(batch).logits[batch.attention_mask]
    return logits


# The only loss is that of storing the merged weights: none to speak of in fp32, half a bit of 8 in bf16, and packing
# again with 8 or 4 bits. (kind of base, whether it is left unpacked, tolerance of the largest logit)
CASES = [
    ("float32", False, 2e-5),
    ("bfloat16", False, 0.05),
    ("8 bit", False, 0.05),
    ("8 bit", True, 2e-5),
    ("4 bit", True, 2e-5),
]


@pytest.mark.parametrize(("kind", "dequantize", "tolerance"), CASES)
@pytest.mark.parametrize("adapter", [FULL, replace(FULL, use_rslora=True)], ids=["lora", "rslora"])
def test_a_fused_model_computes_what_base_and_adapter_do(
    backend_name: str, checkpoint: Path, tmp_path: Path, kind: str, dequantize: bool, tolerance: float, adapter: AdapterArgs
) -> None:
    base = base_of(kind, checkpoint, tmp_path)
    trained = saved(base, tmp_path / "adapter", adapter)
    summary = fuse(FuseConfig(str(trained), str(base), tmp_path / "fused", dequantize))
    expected, plain = logits_of(backend_name, base, trained), logits_of(backend_name, base)
    ours = logits_of(backend_name, tmp_path / "fused")
    largest = float(np.abs(expected).max())
    assert np.abs(ours - expected).max() < tolerance * largest
    assert np.abs(plain - expected).max() > 0.3 * largest  # the adapter says something
    assert summary["path"] == str(tmp_path / "fused")
    fused = load_model_config(tmp_path / "fused")
    assert (fused.quantization is None) == (dequantize or kind in ("float32", "bfloat16"))


def test_packing_again_with_4_bits_costs_no_more_than_packing_once(checkpoint: Path, tmp_path: Path) -> None:
    base = base_of("4 bit", checkpoint, tmp_path)
    trained = saved(base, tmp_path / "adapter")
    fuse(FuseConfig(str(trained), str(base), tmp_path / "unpacked", dequantize=True))
    fuse(FuseConfig(str(trained), str(base), tmp_path / "packed"))
    once = ConvertConfig(str(tmp_path / "unpacked"), tmp_path / "once", quantize=True, q_bits=4, q_group_size=32)
    convert(once)
    np.testing.assert_allclose(logits_of("torch", tmp_path / "packed"), logits_of("torch", tmp_path / "once"), atol=1e-5)


def test_what_the_adapter_does_not_touch_keeps_its_bits(checkpoint: Path, tmp_path: Path) -> None:
    base = base_of("4 bit", checkpoint, tmp_path)
    adapter = AdapterArgs(r=2, target_modules=(*VISION, "down_proj"))
    fuse(FuseConfig(str(saved(base, tmp_path / "adapter", adapter)), str(base), tmp_path / "fused"))
    config = load_model_config(base)
    before, after = open_checkpoint(base, config), open_checkpoint(tmp_path / "fused", config)
    assert before.keys() == after.keys()
    for name, info in before.items():
        values = [i.file.read_bytes()[i.start : i.start + i.size] for i in (info, after[name])]
        module = name.rpartition(".")[0]
        last_tower_layer = ".encoder.layers.2." in name
        touched = bool(adapter.targets([module])) and not name.endswith(".bias") and not last_tower_layer
        assert (values[0] != values[1]) == touched, name
    assert any(is_quantized(name) for name in before)


def test_a_fused_model_is_another_base(checkpoint: Path, tmp_path: Path) -> None:
    trained = saved(checkpoint, tmp_path / "adapter")
    fuse(FuseConfig(str(trained), str(checkpoint), tmp_path / "fused"))
    record = json.loads((tmp_path / "fused" / "conversion.json").read_text())
    assert record["source"] == str(checkpoint) and record["adapter"] == str(trained)
    assert record["adapter_sha256"] == sha256_file(trained / "adapter_model.safetensors")
    with pytest.raises(UserError, match="was trained on another base"):
        load_adapter(trained, load_model_config(tmp_path / "fused"), base_fingerprint(tmp_path / "fused"))
    with pytest.raises(UserError, match="was trained on another base"):
        fuse(FuseConfig(str(trained), str(tmp_path / "fused"), tmp_path / "twice"))
    assert not (tmp_path / "twice").exists()
    # Converted, it is still that base; fused with another strength, it is yet another.
    convert(ConvertConfig(str(tmp_path / "fused"), tmp_path / "half", dtype="bfloat16"))
    stronger = saved(checkpoint, tmp_path / "stronger", replace(FULL, lora_alpha=16))
    fuse(FuseConfig(str(stronger), str(checkpoint), tmp_path / "fused2"))
    prints = [base_fingerprint(folder) for folder in (checkpoint, *(tmp_path / n for n in ("fused", "fused2", "half")))]
    assert len(set(prints[:3])) == 3 and prints[3] == prints[1]


def test_a_second_round_of_training_starts_from_the_fused_model(checkpoint: Path, tmp_path: Path) -> None:
    fuse(FuseConfig(str(saved(checkpoint, tmp_path / "first")), str(checkpoint), tmp_path / "fused"))
    language = AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE)
    second = saved(tmp_path / "fused", tmp_path / "second", language)
    fuse(FuseConfig(str(second), str(tmp_path / "fused"), tmp_path / "twice"))
    expected = logits_of("torch", tmp_path / "fused", second)
    np.testing.assert_allclose(logits_of("torch", tmp_path / "twice"), expected, atol=2e-5 * float(np.abs(expected).max()))


def test_the_command_takes_mlx_lms_flags(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = saved(checkpoint, tmp_path / "adapter")
    flags = ["--model", checkpoint, "--adapter-path", trained, "--save-path", tmp_path / "fused", "--dequantize", "--json"]
    assert main([*map(str, flags)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "done"
    assert main([*map(str, flags)]) == 0
    captured = capsys.readouterr()
    assert (
        captured.err == f"note: {tmp_path / 'fused'} is there already, made of the same model and adapter; nothing was done\n"
    )
    assert json.loads(captured.out.splitlines()[-1])["already"]
    with pytest.raises(UserError, match="fused exists and is not empty"):
        main([*map(str, flags[:-2]), "--json"])
    saved(checkpoint, trained, AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE))
    with pytest.raises(UserError, match="fused exists and is not empty"):
        main([*map(str, flags)])
