"""`convert --to-hf` and `fuse --hf` write what was published: names, order, shards, dtypes, configuration and bits."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mlx_phi3v.adapters import AdapterArgs, load_adapter
from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.headers import open_checkpoint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import expected_tensors, is_unused
from mlx_phi3v.checkpoint.writer import ShardWriter
from mlx_phi3v.config import ModelArgs, load_model_config
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.convert import main as convert_main
from mlx_phi3v.errors import UserError
from mlx_phi3v.fuse import FuseConfig, fuse
from mlx_phi3v.hf_folder.folder import hf_writer, transformers_config
from mlx_phi3v.hf_folder.published import CONFIG_MAP, published_order
from mlx_phi3v.task import Task
from mlx_phi3v.trained_task import TrainedTask
from tests.helpers.paths import SHARED
from tests.mlx_phi3v.test_fuse import logits_of, saved

mx = pytest.importorskip("mlx.core")

# The code's names in the index of Phi-3-vision-128k-instruct begin its second shard here.
SECOND_SHARD = "model.layers.18.self_attn.qkv_proj.weight"
STAND_IN = '''\
"""Stands in for the published code: parameters of the published names, and no computation."""
import torch
from transformers import {base}
{more}
'''


def bits(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name -> dtype, shape and bytes of every tensor."""
    tensors = open_checkpoint(folder, load_model_config(folder))
    return {
        name: (info.dtype, info.shape, info.file.read_bytes()[info.start : info.start + info.size])
        for name, info in tensors.items()
    }


def contents(folder: Path) -> dict[str, Any]:
    """The JSON files of a folder, but for the record of the conversion."""
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != "conversion.json"}


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Headers and index of the published size, written by the code that writes weights, but for their bytes."""
    folder = tmp_path_factory.mktemp("full")
    model = ModelArgs()  # the defaults are Phi-3-vision's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "_write", lambda self, path, size, data: path.touch())
        writer = hf_writer(folder, len(expected_tensors(model)))
        shapes = expected_tensors(model)
        for name in published_order(shapes):
            nothing = np.broadcast_to(np.uint8(0), (2 * math.prod(shapes[name]),))
            writer.add(name, "bfloat16", shapes[name], memoryview(cast(Any, nothing)))
        writer.close()
    return folder


def test_the_published_size_has_its_names_shapes_dtypes_and_shards(full_size: Path) -> None:
    index = json.loads((full_size / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 8_293_242_880} and len(index["weight_map"]) == 592
    headers: dict[str, Any] = {}
    for shard in sorted(full_size.glob("*.safetensors")):
        data = shard.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        assert header.pop("__metadata__") == {"format": "pt"}  # transformers of that time takes no other
        assert all(index["weight_map"][name] == shard.name for name in header)
        assert max(entry["data_offsets"][1] for entry in header.values()) <= 5_000_000_000
        headers |= header
    shapes = {name: tuple(entry["shape"]) for name, entry in headers.items()}
    assert shapes == expected_tensors(ModelArgs()) and {entry["dtype"] for entry in headers.values()} == {"BF16"}
    assert shapes["model.layers.31.self_attn.qkv_proj.weight"] == (9216, 3072)
    assert shapes["model.vision_embed_tokens.img_projection.0.weight"] == (3072, 4096)
    assert shapes["model.vision_embed_tokens.sub_GN"] == (1, 1, 1, 4096)
    second = [name for name in headers if index["weight_map"][name] == "model-00002-of-00002.safetensors"]
    assert second[0] == SECOND_SHARD and "model.layers.18.self_attn.o_proj.weight" not in second


@pytest.mark.skipif(not (SHARED / "phi3v").is_dir(), reason="needs the published index")
def test_the_index_is_the_published_one(full_size: Path) -> None:
    ours = json.loads((full_size / "model.safetensors.index.json").read_text())
    assert ours == json.loads((SHARED / "phi3v/phi-3-vision/model.safetensors.index.json").read_text())


@pytest.mark.skipif(not (SHARED / "phi3v").is_dir(), reason="needs the published configurations")
@pytest.mark.parametrize("name", ["phi-3-vision", "phi-3.5-vision"])
def test_a_published_folder_comes_back_as_it_was(
    name: str, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration, tokenizer and processor, through a folder of ours, with weights of a small model."""
    source = Path(shutil.copytree(make_checkpoint(), tmp_path / "source"))
    published = SHARED / "phi3v" / name
    small = json.loads((source / "config.json").read_text())
    sizes = {key: small[key] for key in small if key not in ("rope_scaling", "embd_layer")}
    for path in published.glob("*.json"):
        if "index" not in path.name:
            shutil.copyfile(path, source / path.name)
    raw = json.loads((published / "config.json").read_text())
    half = small["hidden_size"] // small["num_attention_heads"] // 2
    rope = {key: value if key == "type" else value[:half] for key, value in raw["rope_scaling"].items()}
    raw |= sizes | {
        "torch_dtype": "float32",
        "rope_scaling": rope,
        "img_processor": raw["img_processor"] | small["img_processor"],
    }
    (source / "config.json").write_text(json.dumps(raw))
    convert(ConvertConfig(str(source), tmp_path / "mlx"))
    before, ours, hf = contents(source), contents(tmp_path / "mlx"), tmp_path / "hf"
    assert "auto_map" not in ours["config.json"] and ours["tokenizer_config.json"] != before["tokenizer_config.json"]
    convert(ConvertConfig(str(tmp_path / "mlx"), hf, to_hf=True))
    after = contents(hf)
    del after["model.safetensors.index.json"]
    if name == "phi-3-vision":  # which has none
        assert after.pop("generation_config.json")["eos_token_id"] == [2, 32000, 32007]
    assert after == before
    assert bits(hf) == bits(source)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_way_there_and_back_keeps_every_byte(dtype: str, tmp_path: Path) -> None:
    """From the built-in model: published layout -> ours -> published -> ours -> published."""
    first, ours = tmp_path / "first", tmp_path / "ours"
    convert(ConvertConfig("tiny", first, to_hf=True, dtype=dtype))
    convert(ConvertConfig(str(first), ours))
    convert(ConvertConfig(str(ours), tmp_path / "second", to_hf=True))
    assert bits(tmp_path / "second") == bits(first) == bits(ours)
    if dtype == "bfloat16":
        assert bits(first) == bits(resolve_model("tiny"))  # as it is stored
    assert contents(tmp_path / "second") == contents(first)
    for path in first.iterdir():
        if path.name not in ("conversion.json", "README.md"):  # which say what each was made of
            assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes(), path.name
    assert contents(first)["config.json"]["torch_dtype"] == dtype
    assert not (first / "phi3v_mlx_vlm.py").exists() and "model_file" not in contents(first)["config.json"]
    assert contents(first)["tokenizer_config.json"] == contents(resolve_model("tiny"))["tokenizer_config.json"]
    # An adapter of the model fits each of them.
    assert {base_fingerprint(folder) for folder in (first, ours, tmp_path / "second")} == {
        base_fingerprint(resolve_model("tiny"))
    }


def test_a_fused_folder_equals_peft_merging_in_torch(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from mlx_phi3v.backend_torch.model import parameter_name

    adapter = AdapterArgs(
        r=4, lora_alpha=8, target_modules=("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head", "fc1")
    )
    trained, out = saved(checkpoint, tmp_path / "adapter", adapter), tmp_path / "fused"
    TrainedTask(Task(), 3, "float32").save(trained)
    fuse(FuseConfig(str(trained), str(checkpoint), out, hf=True))
    backend: Any = load_backend("torch", checkpoint, dtype="float32")
    args, tensors = load_adapter(trained, backend.config, base_fingerprint(checkpoint))
    backend.set_adapter(args, tensors, trainable=False)
    expected = logits_of("torch", checkpoint, trained)
    merged = backend.peft.merge_and_unload().state_dict()
    ours, base = mx.load(str(out / "model.safetensors")), mx.load(str(checkpoint / "model.safetensors"))
    changed = 0
    for name in expected_tensors(backend.config):
        if parameter_name(name) not in merged:
            assert is_unused(name, backend.config)
            continue
        theirs = merged[parameter_name(name)].reshape(ours[name].shape)
        mine, before = np.array(ours[name]), np.array(base[name])
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        up, down = tensors.get(f"{key}B.weight"), tensors.get(f"{key}A.weight")
        delta = 0.0 if up is None or down is None else args.scale * (np.abs(up) @ np.abs(down))
        changed += up is not None
        # Each sums r products, scales and adds: off by at most (r + 2) roundings of the sum of the sizes, and so is the other.
        bound = 2 * (args.r + 2) * np.finfo(np.float32).eps * (np.abs(before) + delta)
        assert np.all(np.abs(mine - theirs.detach().numpy()) <= bound), name
    assert changed == len(tensors) // 2
    for engine in ("mlx", "torch"):  # fp32 sums of some hundred terms, in another order: 2e-5 of the largest, as in test_fuse
        np.testing.assert_allclose(logits_of(engine, out), expected, atol=2e-5 * float(np.abs(expected).max()))
    assert contents(out)["preprocessor_config.json"]["num_crops"] == 3  # the published code reads no task.json
    assert contents(out)["generation_config.json"]["eos_token_id"] == [2, 1100, 1107]
    assert TrainedTask.load(out) == TrainedTask(Task(), 3, "float32")


def test_packed_weights_are_unpacked_on_demand_only(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, adapter = tmp_path / "packed", tmp_path / "adapter"
    convert(ConvertConfig(str(checkpoint), packed, quantize=True, q_group_size=32, dtype="bfloat16"))
    flags = ["--hf-path", str(packed), "--mlx-path", str(tmp_path / "out"), "--to-hf"]
    with pytest.raises(UserError, match="packed is quantised, in a form that transformers does not read; add --dequantize"):
        convert_main(flags)
    with pytest.raises(UserError, match="add --dequantize"):
        fuse(FuseConfig(str(saved(packed, adapter)), str(packed), tmp_path / "out", hf=True))
    with pytest.raises(UserError, match="-q and --to-hf, which writes floats, exclude each other"):
        convert_main(["--hf-path", str(checkpoint), "--mlx-path", str(tmp_path / "out"), "--to-hf", "-q"])
    assert not (tmp_path / "out").exists()
    assert convert_main([*flags, "-d"]) == 0
    raw = contents(tmp_path / "out")["config.json"]
    assert "quantization" not in raw and raw["torch_dtype"] == "bfloat16"
    assert {dtype for dtype, _, _ in bits(tmp_path / "out").values()} == {"BF16"}
    # bf16 of what the packed model computes with, whose own products are rounded the other way: half a bit of 8.
    expected = logits_of("torch", packed)
    np.testing.assert_allclose(logits_of("torch", tmp_path / "out"), expected, atol=0.05 * float(np.abs(expected).max()))
    # Unpacked, and in our own layout: packed again it is the same.
    convert(ConvertConfig(str(packed), tmp_path / "plain", dequantize=True, dtype="float32"))
    assert load_model_config(tmp_path / "plain").quantization is None
    np.testing.assert_allclose(logits_of("torch", tmp_path / "plain"), expected, atol=2e-5 * float(np.abs(expected).max()))
    convert(ConvertConfig(str(checkpoint), tmp_path / "same", dequantize=True))
    assert "is not quantised: --dequantize changes nothing" in capsys.readouterr().err


def test_what_transformers_5_saved_is_read_by_the_published_code() -> None:
    model = ModelArgs(short_factor=(1.0, 1.5), long_factor=(2.0, 2.5), rope_theta=500.0)
    rope = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 2.5], "rope_theta": 500.0}
    made = transformers_config(
        {"model_type": "phi3_v", "dtype": "bfloat16", "rope_parameters": rope}, model, CONFIG_MAP, "bfloat16"
    )
    assert made["rope_scaling"] == {"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2.0, 2.5]}
    assert (made["rope_theta"], made["original_max_position_embeddings"], made["torch_dtype"]) == (500.0, 4096, "bfloat16")
    assert not made.keys() & {"dtype", "rope_parameters"}
    assert made["img_processor"]["name"] == "clip_vision_model" and made["embd_layer"]["projection_cls"] == "mlp"


def test_transformers_finds_every_tensor_by_auto_map(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the published code, which is not here: `auto_map`, index, names, shapes and dtype are right."""
    transformers = pytest.importorskip("transformers")
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    (source / "names.json").write_text(json.dumps(expected_tensors(load_model_config(checkpoint))))
    (source / "configuration_phi3_v.py").write_text(
        STAND_IN.format(base="PretrainedConfig", more='class Phi3VConfig(PretrainedConfig):\n    model_type = "phi3_v"\n')
    )
    code = f"""
import json
from .configuration_phi3_v import Phi3VConfig
class Phi3VForCausalLM(PreTrainedModel):
    config_class = Phi3VConfig
    def __init__(self, config):
        super().__init__(config)
        for name, shape in json.load(open({str(source / "names.json")!r})).items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_parameter(last, torch.nn.Parameter(torch.zeros(shape)))
        self.post_init()
    def _init_weights(self, module):
        pass
"""
    (source / "modeling_phi3_v.py").write_text(STAND_IN.format(base="PreTrainedModel", more=code))
    (source / "processing_phi3_v.py").write_text("")
    convert(ConvertConfig(str(source), tmp_path / "hf", to_hf=True, dtype="bfloat16"))
    for module in ("dynamic_module_utils", "utils.hub"):
        monkeypatch.setattr(f"transformers.{module}.HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", trust_remote_code=True, torch_dtype="auto", output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    stored = bits(tmp_path / "hf")
    state = model.state_dict()
    assert state.keys() == stored.keys()
    for name, tensor in state.items():
        assert str(tensor.dtype) == "torch.bfloat16"
        assert tensor.view(dtype=__import__("torch").int16).numpy().tobytes() == stored[name][2], name
