"""Adapters of other tools: PEFT's in each spelling, mlx's, of single ranks; loaded right, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v import adapter_files
from mlx_phi3v.adapter_config import CONFIG_FILE
from mlx_phi3v.adapter_files import WEIGHTS_FILE
from mlx_phi3v.adapters import LANGUAGE, PREFIX, AdapterArgs, load_adapter, resolve_adapter, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.export import ExportConfig, export, main
from mlx_phi3v.fuse import FuseConfig, fuse
from tests.mlx_phi3v.test_adapters import FULL, filled

Tensors = dict[str, np.ndarray]


def rewrite(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """The adapter with other tensors (without our metadata) and other entries."""
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / WEIGHTS_FILE)
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.fixture
def saved(checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter with LoRA and modules trained in full."""
    folder = tmp_path / "adapter"
    save_adapter(folder, FULL, filled(checkpoint, FULL), base_fingerprint(checkpoint))
    return folder


def load(folder: Path, checkpoint: Path) -> tuple[AdapterArgs, Tensors]:
    return load_adapter(folder, load_model_config(checkpoint), base_fingerprint(checkpoint))


def updates(adapter: AdapterArgs, tensors: Tensors) -> Tensors:
    """What an adapter adds to each weight, or puts in its place."""
    found = {}
    for key, value in tensors.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            found[module] = adapter.scale * tensors[module + ".lora_B.weight"] @ value
        elif ".lora_" not in key:
            found[key] = value
    return found


SPELLINGS: dict[str, Callable[[str], str]] = {
    "no prefix": lambda key: key.removeprefix(PREFIX),
    "the adapter's name": lambda key: key.replace(".weight", ".default.weight") if ".lora_" in key else key,
    "another name": lambda key: key.replace(".weight", ".mine.weight") if ".lora_" in key else key,
    "modules_to_save": lambda key: key if ".lora_" in key else _inside(key, ".modules_to_save"),
    "modules_to_save.default": lambda key: key if ".lora_" in key else _inside(key, ".modules_to_save.default"),
    "parallel": lambda key: "module." + key,
    "compiled": lambda key: "_orig_mod." + key,
    "wrapped twice": lambda key: PREFIX + key,
    "another class around it": lambda key: key.replace(PREFIX, PREFIX + "language_model."),
}


def _inside(key: str, what: str) -> str:
    module, _, kind = key.rpartition(".")
    return f"{module}{what}.{kind}"


@pytest.mark.parametrize("spelling", SPELLINGS, ids=list(SPELLINGS))
def test_names_are_understood_in_each_spelling(saved: Path, checkpoint: Path, spelling: str) -> None:
    _, expected = load(saved, checkpoint)
    rewrite(saved, {SPELLINGS[spelling](key): value for key, value in load_file(saved / WEIGHTS_FILE).items()})
    _, tensors = load(saved, checkpoint)
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


def test_a_copy_of_the_base_model_s_own_is_passed_over(saved: Path, checkpoint: Path) -> None:
    tensors = load_file(saved / WEIGHTS_FILE)
    [key] = [key for key in tensors if key.endswith("img_projection.0.weight")]
    rewrite(saved, tensors | {_inside(key, ".original_module"): np.zeros_like(tensors[key])})
    np.testing.assert_array_equal(load(saved, checkpoint)[1][key], tensors[key])


def test_two_adapters_in_one_file_are_refused(saved: Path, checkpoint: Path) -> None:
    tensors = load_file(saved / WEIGHTS_FILE)
    rewrite(saved, tensors | {SPELLINGS["another name"](key): value for key, value in tensors.items() if ".lora_" in key})
    with pytest.raises(UserError, match="two tensors of one meaning"):
        load(saved, checkpoint)


def test_a_name_of_no_module_is_listed(saved: Path, checkpoint: Path) -> None:
    tensors = load_file(saved / WEIGHTS_FILE)
    rewrite(saved, tensors | {f"{PREFIX}model.layers.9.self_attn.qkv_proj.lora_A.weight": np.zeros((4, 64), np.float32)})
    with pytest.raises(UserError, match=r"extra .*layers\.9"):
        load(saved, checkpoint)


LORA = AdapterArgs(r=4, lora_alpha=8, target_modules=LANGUAGE)


@pytest.mark.parametrize("rslora", [False, True])
def test_single_ranks_and_alphas_give_peft_s_update(
    checkpoint: Path, tmp_path: Path, rslora: bool, rng: np.random.Generator
) -> None:
    """Written by peft for the torch model, and compared with what it adds there."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from mlx_phi3v.backend import load_backend

    model: Any = load_backend("torch", checkpoint, dtype="float32")
    model = model.whole_model
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "down_proj"], use_rslora=rslora,
        rank_pattern={"o_proj": 2, r"model\.layers\.1\..*down_proj": 7, "layers.1.mlp.down_proj": 3},
        alpha_pattern={"qkv_proj": 5, "^model.layers.0.*.down_proj": 12},
    )  # fmt: skip
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype(np.float32)))
    wrapped.save_pretrained(str(tmp_path / "theirs"))
    ours = updates(*load(tmp_path / "theirs", checkpoint))
    theirs = {
        f"{PREFIX}{name.removeprefix(PREFIX)}": module.get_delta_weight("default").detach().numpy()
        for name, module in wrapped.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert ours.keys() == theirs.keys() and len(theirs) == 6
    for name, value in theirs.items():  # products of up to 7 numbers, each rounded once more by a factor
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("target", ["all-linear", r".*layers\.\d+\.(self_attn|mlp)\..*", ["qkv_proj", "lm_head"]])
def test_targets_of_each_kind(checkpoint: Path, tmp_path: Path, target: Any) -> None:
    adapter = replace(LORA, target_modules=target if isinstance(target, str) else tuple(target))
    save_adapter(tmp_path / "adapter", adapter, filled(checkpoint, adapter), "")
    read, tensors = load(tmp_path / "adapter", checkpoint)
    assert read == replace(adapter, target_modules=tuple(sorted(target)) if isinstance(target, list) else target) and tensors


# ---- mlx-lm and mlx-vlm ----


def exported(saved: Path, checkpoint: Path, folder: Path, form: str = "mlx") -> Path:
    export(ExportConfig(str(saved), folder, str(checkpoint), form))
    return folder


@pytest.mark.parametrize(
    "adapter", [LORA, FULL, replace(LORA, r=3, lora_alpha=7.3, use_rslora=True)], ids=["lora", "full", "rslora"]
)
def test_there_and_back_again_is_exact(checkpoint: Path, tmp_path: Path, adapter: AdapterArgs) -> None:
    save_adapter(tmp_path / "a", adapter, filled(checkpoint, adapter), base_fingerprint(checkpoint))
    there = exported(tmp_path / "a", checkpoint, tmp_path / "b")
    back = exported(there, checkpoint, tmp_path / "c", "peft")
    assert (back / CONFIG_FILE).read_bytes() == (tmp_path / "a" / CONFIG_FILE).read_bytes()
    before, after = load_file(tmp_path / "a" / WEIGHTS_FILE), load_file(back / WEIGHTS_FILE)
    assert {key: value.tobytes() for key, value in before.items()} == {key: value.tobytes() for key, value in after.items()}
    for folder in (tmp_path / "a", there, back):  # and each is the same adapter
        read, tensors = load(folder, checkpoint)
        assert read == load(tmp_path / "a", checkpoint)[0] and tensors.keys() == before.keys()


def test_an_export_that_was_killed_after_its_work_can_be_given_again(saved: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = exported(saved, checkpoint, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    assert export(ExportConfig(str(saved), made, str(checkpoint)))["already"]
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    (made / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="exists and is not empty"):
        export(ExportConfig(str(saved), made, str(checkpoint)))


def test_half_precision_and_what_only_peft_knows_come_back(saved: Path, checkpoint: Path, tmp_path: Path) -> None:
    halved = {key: value.astype(np.float16) for key, value in load_file(saved / WEIGHTS_FILE).items()}
    rewrite(saved, halved, peft_version="0.21.2", task_type="CAUSAL_LM")
    back = exported(exported(saved, checkpoint, tmp_path / "b"), checkpoint, tmp_path / "c", "peft")
    assert {key: value.dtype.name for key, value in load_file(back / WEIGHTS_FILE).items()} == dict.fromkeys(halved, "float16")
    assert json.loads((back / CONFIG_FILE).read_text()) == json.loads((saved / CONFIG_FILE).read_text())


def test_mlx_vlm_answers_with_the_exported_adapter_as_we_do(checkpoint: Path, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx_vlm")
    served = pytest.importorskip("tests.helpers.served")
    import mlx_vlm

    from mlx_phi3v.backend import load_backend
    from mlx_phi3v.convert import ConvertConfig, convert
    from tests.mlx_phi3v.test_generate import greedy, questions

    convert(ConvertConfig(str(checkpoint), tmp_path / "model"))
    backend = load_backend("mlx", tmp_path / "model", dtype="float32")
    plain = [answer.token_ids for answer in greedy(backend, questions(checkpoint), 10)]
    backend.set_adapter(*load(saved, checkpoint), trainable=False)
    expected = [answer.token_ids for answer in greedy(backend, questions(checkpoint), 10)]
    folder = exported(saved, checkpoint, tmp_path / "mlx")
    model, _ = mlx_vlm.load(str(tmp_path / "model"), adapter_path=str(folder))
    assert [served.answer(model, question, 10) for question in questions(checkpoint)] == expected != plain


def test_training_writes_the_best_adapter_for_mlx_vlm_too(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    from mlx_phi3v.train import TrainConfig, train

    config = TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend="mlx", max_steps=1, batch_size=2, r=2,
        num_crops=1, val_rows=0, mlx_adapter=True,
    )  # fmt: skip
    assert train(config)["mlx_adapter"] == str(tmp_path / "run" / "mlx")
    train(replace(config, max_steps=2, resume=True))
    ours, theirs = (load(tmp_path / "run" / name, checkpoint) for name in ("best", "mlx"))
    assert ours[0] == theirs[0]
    for key, value in ours[1].items():
        np.testing.assert_array_equal(theirs[1][key], value)
    assert (tmp_path / "run" / "mlx" / "task.json").read_bytes() == (tmp_path / "run" / "best" / "task.json").read_bytes()


def test_an_adapter_that_mlx_vlm_wrote_is_read(checkpoint: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """By its own code, from a model that it loaded."""
    mx = pytest.importorskip("mlx.core")
    pytest.importorskip("mlx_vlm")
    from mlx_vlm.trainer.peft.utils import get_peft_model
    from mlx_vlm.trainer.peft.utils import save_adapter as save_theirs
    from mlx_vlm.utils import load_model

    from mlx_phi3v.convert import ConvertConfig, convert

    convert(ConvertConfig(str(checkpoint), tmp_path / "model"))
    model = get_peft_model(load_model(tmp_path / "model"), ["qkv_proj", "down_proj"], rank=3, alpha=6, verbose=False)
    added = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_b"):
            module.lora_b = mx.array(rng.standard_normal(module.lora_b.shape).astype(np.float32))
            added[PREFIX + name] = np.array(module.scale * module.lora_b.T @ module.lora_a.T)
    (tmp_path / "theirs").mkdir()
    save_theirs(model, tmp_path / "theirs" / "adapters.safetensors")
    ours = updates(*load(tmp_path / "theirs", checkpoint))
    assert ours.keys() == added.keys() and len(added) == 4
    for name, value in added.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)
    fuse(FuseConfig(str(tmp_path / "theirs"), str(checkpoint), tmp_path / "fused"))
    back = exported(tmp_path / "theirs", checkpoint, tmp_path / "peft", "peft")
    assert updates(*load(back, checkpoint)).keys() == added.keys()


MLX = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}}
WRONG_MLX: list[tuple[dict[str, Any], str]] = [
    ({**MLX, "fine_tune_type": "dora"}, "only lora is supported"),
    ({**MLX, "fine_tune_type": "full"}, "whole model"),
    ({"rank": 4, "alpha": 8, "dropout": 0.0}, "old adapters"),
    ({**MLX, "lora_parameters": {"rank": "4", "scale": 2.0}}, r"lora_parameters\.rank"),
    ({**MLX, "lora_parameters": {"rank": 4}}, "scale"),
    ({**MLX, "lora_parameters": {"rank": 8, "scale": 2.0}}, "does not fit"),
    ({**MLX, "lora_parameters": {"rank": 4, "scale": 2.0, "keys": ["lm_head"]}}, "there is no tensor"),
]


@pytest.mark.parametrize(("config", "message"), WRONG_MLX, ids=[message for _, message in WRONG_MLX])
def test_an_mlx_configuration_that_does_not_fit_is_a_sentence(
    saved: Path, checkpoint: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = exported(saved, checkpoint, tmp_path / "mlx")
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load(folder, checkpoint)


def test_an_mlx_adapter_of_no_module_of_the_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """mlx-vlm loads such a one without a word, and it changes nothing."""
    (tmp_path / CONFIG_FILE).write_text(json.dumps(MLX))
    tensors = {f"model.blocks.0.attn.{name}": np.ones((4, 4), np.float32) for name in ("lora_a", "lora_b")}
    save_file(tensors, tmp_path / "adapters.safetensors")
    with pytest.raises(UserError, match="no module of the model matches"):
        load(tmp_path, checkpoint)


# ---- never in silence ----


def test_an_adapter_that_changes_nothing_is_reported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {key: value * (0 if "lora_B" in key else 1) for key, value in filled(checkpoint, LORA).items()}
    save_adapter(tmp_path / "adapter", LORA, tensors, base_fingerprint(checkpoint))
    load(tmp_path / "adapter", checkpoint)
    assert "changes nothing" in capsys.readouterr().err
    save_adapter(tmp_path / "filled", LORA, filled(checkpoint, LORA), base_fingerprint(checkpoint))
    load(tmp_path / "filled", checkpoint)
    assert not capsys.readouterr().err


def test_a_foreign_adapter_s_base_is_compared_by_name(
    saved: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_model_config(checkpoint)
    rewrite(saved, load_file(saved / WEIGHTS_FILE), base_model_name_or_path="microsoft/Phi-3.5-vision-instruct")
    load_adapter(saved, config, "", "microsoft/Phi-3.5-vision-instruct")
    assert "does not say which weights" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"this model is Phi-3-vision"):
        load_adapter(saved, config, "", "microsoft/Phi-3-vision-128k-instruct")


# ---- from the hub ----


def test_a_hub_id_is_downloaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_adapter("somebody/their-adapter") == saved
    assert asked["name"] == "somebody/their-adapter"
    assert not any(pattern.endswith((".py", ".bin")) or "*.safetensors" in pattern for pattern in asked["allow_patterns"])
    assert adapter_files.WEIGHTS_FILE in asked["allow_patterns"] and "adapters.safetensors" in asked["allow_patterns"]


def test_a_hub_id_that_cannot_be_downloaded_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="the download from the hub failed"):
        resolve_adapter("somebody/their-adapter")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match=r"has no adapter_config\.json"):
        resolve_adapter("somebody/their-adapter")
    with pytest.raises(UserError, match="neither an adapter nor a training run"):
        resolve_adapter(tmp_path)


def test_the_command(saved: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--adapter", str(saved), "--model", str(checkpoint), "--output", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "mlx"
    with pytest.raises(UserError, match="exists"):
        main(["--adapter", str(saved), "--model", str(checkpoint), "--output", str(tmp_path / "out"), "--form", "peft"])
