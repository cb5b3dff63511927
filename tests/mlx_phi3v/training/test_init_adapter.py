"""A training may start from an adapter: its rank, alpha and targets are used, and a flag that contradicts them is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v import plan
from mlx_phi3v.adapters import AdapterArgs, adapter_shapes, init_adapter, save_adapter
from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task
from mlx_phi3v.trained_task import TASK_FILE, TrainedTask
from mlx_phi3v.training.init_adapter import choose_num_crops, trained_groups
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig
from tests.mlx_phi3v.training.test_resume import interrupted
from tests.mlx_phi3v.training.test_train import adapter_of, log, same_run

TARGETS = r".*layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.down_proj)"  # as PEFT has them: a regular expression


@pytest.fixture
def first(checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter of rank 3 on some modules of the language model and the separators, with B not zero."""
    model = load_model_config(checkpoint)
    adapter = AdapterArgs(3, 6, 0.0, TARGETS, ("glb_GN", "sub_GN"), use_rslora=True, base_model_name_or_path="a/base")
    random = np.random.Generator(np.random.PCG64(1))
    tensors = {
        key: random.normal(0, 0.1, shape).astype(np.float32) for key, shape in adapter_shapes(model, adapter).tensors.items()
    }
    save_adapter(tmp_path / "first", adapter, tensors, base_fingerprint(checkpoint))
    return tmp_path / "first"


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path, backend_name: str, first: Path) -> TrainConfig:
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend=backend_name, dtype="float32",
        max_steps=4, batch_size=4, learning_rate=3e-3, warmup_steps=1, num_crops=1, steps_per_report=1, val_rows=0,
        save_every=2, init_adapter=str(first),
    )  # fmt: skip


def test_a_run_starts_from_the_adapter_and_keeps_its_shape(config: TrainConfig, first: Path) -> None:
    summary = train(replace(config, learning_rate=1e-30, max_steps=1))
    for key, value in adapter_of(first.parent, "first").items():  # a rate of almost nothing leaves it where it was
        np.testing.assert_allclose(adapter_of(config.output)[key], value, rtol=1e-6)
    assert summary["init_adapter"] == str(first)
    settings = json.loads((config.output / "settings.json").read_text())
    expected = {"init_adapter": str(first), "r": 3, "lora_alpha": 6.0, "language": "lora", "vision": "off",
                "projector": "off", "separators": "full", "lm_head": "off"}  # fmt: skip
    assert {key: settings[key] for key in expected} == expected
    saved = json.loads((config.output / "last" / "adapter_config.json").read_text())
    assert saved["target_modules"] == TARGETS and saved["use_rslora"] and saved["base_model_name_or_path"] == config.model


def test_its_first_loss_is_the_adapters_and_falls(config: TrainConfig, first: Path) -> None:
    train(config)
    train(replace(config, output=config.output.with_name("fresh"), init_adapter=None, max_steps=1))
    assert log(config.output)[0]["loss"] != pytest.approx(log(config.output.with_name("fresh"))[0]["loss"], rel=1e-3)
    assert log(config.output)[-1]["loss"] < log(config.output)[0]["loss"]
    assert log(config.output)[0]["learning_rate"] == 0.0  # a schedule of its own, from its first step


def test_a_training_run_is_an_adapter_too(config: TrainConfig) -> None:
    train(replace(config, max_steps=1))
    second = replace(config, output=config.output.with_name("second"), init_adapter=str(config.output), max_steps=1)
    assert train(second)["init_adapter"] == str(config.output)
    assert json.loads((second.output / "settings.json").read_text())["r"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 32}, r"--r 32 contradicts --init-adapter .*first, whose r is 3; leave --r out"),
        ({"lora_alpha": 16.0}, r"--lora-alpha 16\.0 contradicts .* whose lora_alpha is 6\.0"),
        ({"vision": "lora"}, r"--vision lora contradicts .* whose vision is off"),
        ({"language": "off"}, r"--language off contradicts .* whose language is lora"),
        ({"separators": "off"}, r"--separators off contradicts .* whose separators is full"),
    ],
)
def test_a_flag_that_contradicts_it_is_refused(config: TrainConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config, **change))
    assert not config.output.exists()


def test_flags_that_agree_with_it_are_fine(config: TrainConfig) -> None:
    agreeing = replace(config, r=3, lora_alpha=6.0, language="lora", vision="off", separators="full", max_steps=1)
    assert train(agreeing)["steps"] == 1


def test_an_adapter_of_another_base_is_refused(config: TrainConfig, make_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"adapter .*first was trained on another base"):
        train(replace(config, model=str(make_checkpoint(seed=1))))


def test_a_folder_without_an_adapter_is_named_with_its_flag(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--init-adapter .*nothing is neither an adapter nor a training run"):
        train(replace(config, init_adapter=str(tmp_path / "nothing")))


@pytest.mark.parametrize("again", [True, False])
def test_such_a_run_is_resumed_without_its_first_adapter(
    config: TrainConfig, first: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    train(replace(config, output=config.output.with_name("whole")))
    begun = interrupted(config, monkeypatch)
    shutil.rmtree(first)
    train(begun if again else replace(begun, init_adapter=None))
    same_run(config.output, config.output.with_name("whole"))
    assert (config.output / "last" / "adapter_config.json").read_text() == (
        config.output.with_name("whole") / "last" / "adapter_config.json"
    ).read_text()


def test_another_adapter_half_way_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = interrupted(config, monkeypatch)
    with pytest.raises(UserError, match="--resume continues with the adapter of OUTPUT/last; leave --init-adapter out"):
        train(replace(begun, init_adapter=str(tmp_path / "other")))
    with pytest.raises(UserError, match="r was 3 and is now 8"):
        train(replace(begun, init_adapter=None, r=8))


def test_the_image_side_stays_out_where_the_adapter_leaves_it_out(
    checkpoint: Path, backend_name: str, config: TrainConfig, tmp_path: Path
) -> None:
    model = load_model_config(checkpoint)
    language = AdapterArgs(2, 4, target_modules=("qkv_proj",))
    save_adapter(tmp_path / "language", language, init_adapter(model, language, 0), base_fingerprint(checkpoint))
    assert trained_groups(language, model) == {
        "language": "lora", "vision": "off", "projector": "off", "separators": "off", "lm_head": "off"
    }  # fmt: skip
    cached = replace(config, init_adapter=str(tmp_path / "language"), feature_cache=tmp_path / "features", max_steps=1)
    train(cached)  # which a run that trains the image side refuses
    backend = load_backend(backend_name, checkpoint, dtype="float32")
    assert not language.trains_image_side(backend.config)


def test_plan_counts_what_the_adapter_trains(
    checkpoint: Path, first: Path, small_catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--model",
        str(checkpoint),
        "--data",
        str(small_catalogue),
        "--init-adapter",
        str(first),
        "--gflops",
        "1",
        "--json",
    ]
    assert plan.main(flags) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["trained"] == sum(value.size for value in adapter_of(first.parent, "first").values())
    with pytest.raises(UserError, match="--r 8 contradicts --init-adapter"):
        plan.main([*flags, "--r", "8"])


def test_crops_are_those_of_the_adapters_training(config: TrainConfig, first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TrainedTask(Task(), 2, "float32").save(first)
    model = load_model_config(Path(config.model))
    assert choose_num_crops(replace(config, num_crops=None), model) == 2 and capsys.readouterr().err == ""
    assert choose_num_crops(config, model) == 1
    assert capsys.readouterr().err == f"note: --num-crops is 1; {first} was trained with 2\n"
    (first / TASK_FILE).unlink()
    assert choose_num_crops(replace(config, num_crops=None), model) == model.num_crops
