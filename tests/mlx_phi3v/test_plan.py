"""What a run takes is known from shapes: exactly where it can be counted, and by choices that keep the step the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mlx_phi3v import plan
from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, init_adapter
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.checkpoint.layout import is_unused
from mlx_phi3v.config import ModelArgs, VisionArgs, load_model_config
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.errors import UserError
from mlx_phi3v.kv_cache import kv_bytes
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from mlx_phi3v.training.footprint import INTERPRETER, adapter_parameters, answer_bytes, fit_to_limit, footprint, weight_bytes
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.row_lengths import measure_rows
from mlx_phi3v.training.step_shape import BatchShape, StepSettings, largest_batch
from mlx_phi3v.training.train_config import TrainConfig

PUBLISHED = ModelArgs()
ALL = StepSettings(AdapterArgs(), "bfloat16", False)
FROZEN = StepSettings(AdapterArgs(target_modules=LANGUAGE), "bfloat16", False)


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_weights_take_what_the_loaded_model_holds(
    make_checkpoint: Callable[..., Path], tmp_path: Path, bits: int | None
) -> None:
    pytest.importorskip("mlx")
    from mlx.utils import tree_flatten

    folder = make_checkpoint(hidden=128, intermediate=192)
    if bits:
        folder, source = tmp_path / "quantised", folder
        convert(
            ConvertConfig(hf_path=str(source), mlx_path=folder, quantize=True, q_bits=bits, q_group_size=32, dtype="float32")
        )
    backend: Any = load_backend("mlx", folder, dtype="float32")
    held = sum(array.nbytes for array in dict(tree_flatten(backend.model.parameters())).values())
    assert weight_bytes(load_model_config(folder), "float32") == held


def test_trained_parameters_are_those_of_the_adapter() -> None:
    config = ModelArgs(1000, 64, 96, 2, 4, 2, vision=VisionArgs(32, 64, 3, 2, patch_size=84))
    adapter = AdapterArgs(r=8)
    assert adapter_parameters(config, adapter) == sum(value.size for value in init_adapter(config, adapter, 0).values())


def test_the_largest_batch_bounds_every_row(checkpoint: Path, small_catalogue: Path) -> None:
    catalogue, config = Catalogue(small_catalogue), load_model_config(checkpoint)
    maker = ExampleMaker(PromptProcessor(checkpoint), config, Task(), 4)
    split = catalogue.split("train")
    shape = largest_batch(measure_rows(split, maker).lengths(4, config.vision), 3)
    examples = [maker(row, with_answer=True) for row in split]
    assert shape.tokens == max(len(example.input_ids) for example in examples)
    assert shape.crops == 3 * max(sum(image.crop_count for image in example.images) for example in examples)
    assert shape.rows == 3


@given(rows=st.integers(1, 48), limit_gb=st.floats(1, 200), crops=st.integers(1, 17))
def test_a_memory_limit_keeps_the_rows_of_a_step_and_is_respected(rows: int, limit_gb: float, crops: int) -> None:
    shape = BatchShape(rows, 150 * (crops + 1), crops * rows)
    found = fit_to_limit(PUBLISHED, shape, ALL, int(limit_gb * 1e9))
    least = footprint(PUBLISHED, replace(shape, rows=1, crops=crops), replace(ALL, grad_checkpoint=True)).total + INTERPRETER
    assert (found is None) == (least > limit_gb * 1e9)
    if found:
        count, checkpointing = found
        assert rows % count == 0
        part = replace(shape, rows=count, crops=crops * count)
        assert footprint(PUBLISHED, part, replace(ALL, grad_checkpoint=checkpointing)).total + INTERPRETER <= limit_gb * 1e9
        assert not checkpointing or fit_to_limit(PUBLISHED, replace(shape, rows=1, crops=crops), ALL, int(limit_gb * 1e9)) != (
            1,
            False,
        )


def test_memory_grows_with_rows_tokens_and_crops_and_shrinks_with_each_concession() -> None:
    shape = BatchShape(4, 900, 20)
    whole = footprint(PUBLISHED, shape, ALL).total
    for smaller in (replace(shape, rows=2), replace(shape, tokens=600), replace(shape, crops=8)):
        assert footprint(PUBLISHED, smaller, ALL).total < whole
    for training in (replace(ALL, grad_checkpoint=True), FROZEN, replace(FROZEN, encode=False)):
        assert footprint(PUBLISHED, shape, training).total < whole


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert plan.main([*flags, "--gflops", "100", "--json"]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_a_plan_needs_no_weights_and_says_what_fits(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "config-only"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    figures = planned(capsys, "--model", str(folder), "--photo", "700x300", "--num-crops", "4", "--batch-size", "2")
    stored, config = load_file(checkpoint / "model.safetensors"), load_model_config(checkpoint)
    weights = sum(value.size for name, value in stored.items() if not is_unused(name, config))
    assert figures["rows"] == 2 and figures["crops"] == 2 * 3
    assert figures["parameters"] == weights
    assert figures["advice"] == {f"{gb} GB Mac": "" for gb in (8, 16, 32, 64)}
    assert figures["seconds_per_step"] > figures["tflop"] / 0.1


def test_a_plan_names_what_to_change(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "published"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    wide = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32064, "rope_scaling": None}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | wide))
    advice = planned(capsys, "--model", str(folder), "--batch-size", "4")["advice"]
    assert "bits" in advice["8 GB Mac"] and "bits" not in advice["64 GB Mac"]
    tight = planned(capsys, "--model", str(folder), "--batch-size", "4", "--memory-limit", "9")
    assert list(tight["advice"]) == ["--memory-limit 9"] and tight["fits"] == {"--memory-limit 9": False}
    assert "8 bits" in tight["advice"]["--memory-limit 9"]


def test_a_plan_says_what_an_answer_takes(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = planned(capsys, "--model", str(checkpoint), "--context", "5000")
    assert figures["context"] == 5000 and list(figures["answer_gb"]) == [figures["dtype"], "8 bit", "4 bit"]
    assert planned(capsys, "--model", str(checkpoint))["context"] == load_model_config(checkpoint).max_position_embeddings
    # The published model: 32 layers of 3,072 keys and as many values a token, in bf16 or in groups of 32 with two bf16 numbers.
    kept = {bits: kv_bytes(PUBLISHED, 131_072, 2, bits) for bits in (0, 8, 4)}
    numbers = 2 * 32 * 3072 * 131_072
    assert kept == {0: 2 * numbers, 8: numbers * 9 // 8, 4: numbers * 5 // 8}
    taken = {bits: answer_bytes(PUBLISHED, 131_072, "bfloat16", bits) for bits in (0, 8, 4)}
    assert taken[0] > weight_bytes(PUBLISHED, "bfloat16") + kept[0] > taken[8] > taken[4]
    assert answer_bytes(PUBLISHED, 1024, "bfloat16") - answer_bytes(PUBLISHED, 512, "bfloat16") < 0.3e9


def test_torch_unpacks_packed_weights_and_a_plan_for_it_says_what_its_memory_is(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, packed = make_checkpoint(hidden=128, intermediate=192), tmp_path / "packed"
    shutil.copytree(plain, packed, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization": {"group_size": 32, "bits": 4}}))
    flags = ["--photo", "300x300", "--dtype", "bfloat16"]
    whole = planned(capsys, "--model", str(plain), "--backend", "torch", *flags)
    assert planned(capsys, "--model", str(packed), "--backend", "torch", *flags)["weights_gb"] == whole["weights_gb"]
    assert planned(capsys, "--model", str(packed), "--backend", "mlx", *flags)["weights_gb"] < whole["weights_gb"]
    assert plan.main(["--model", str(packed), "--backend", "torch", "--gflops", "100", *flags]) == 0
    assert "on a CPU torch takes up to 1.5 times as much" in capsys.readouterr().out


def test_a_folder_with_brackets_is_named_as_it_is(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x[" / "b]"  # together [/b], which would end bold type where none began
    shutil.copytree(checkpoint, folder)
    assert plan.main(["--model", str(folder), "--gflops", "5"]) in (0, None)
    assert "x[/b]" in capsys.readouterr().out.replace("\n", "")


def test_a_photo_beside_a_catalogue_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--photo 640x480 is for where there is no --data"):
        plan.main(["--model", str(checkpoint), "--data", str(tmp_path), "--photo", "640x480", "--gflops", "1"])


@pytest.mark.parametrize("photo", ["large", "0x10", "10x", "-3x4"])
def test_a_photo_that_is_no_size_is_named(checkpoint: Path, photo: str) -> None:
    with pytest.raises(UserError, match=r"--photo .* WIDTHxHEIGHT"):
        plan.main(["--model", str(checkpoint), f"--photo={photo}", "--gflops", "1"])


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> TrainConfig:
    pytest.importorskip("mlx")
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend="mlx", dtype="float32", max_steps=3,
        batch_size=4, learning_rate=5e-3, warmup_steps=1, r=4, lora_alpha=8, num_crops=2, val_rows=0,
    )  # fmt: skip


@pytest.mark.numeric
def test_training_within_a_limit_is_the_same_training(config: TrainConfig, tmp_path: Path) -> None:
    model = load_model_config(config.model)
    maker = ExampleMaker(PromptProcessor(Path(config.model)), model, Task(), 2)
    shape = largest_batch(measure_rows(Catalogue(config.data).split("train"), maker).lengths(2, model.vision), 1)
    one_row = StepSettings(config.adapter(), "float32", False, cpu=True)
    limit = (footprint(model, shape, one_row).total + INTERPRETER) * 1.000001 / 1e9
    free = train(config)
    limited = train(replace(config, output=tmp_path / "limited", memory_limit=limit))
    settings = json.loads((tmp_path / "limited" / "settings.json").read_text())
    assert settings["batch_size"] == 1 and settings["grad_accumulation_steps"] == 4
    ours, theirs = (load_file(Path(summary["adapter"]) / "adapter_model.safetensors") for summary in (limited, free))
    for key in theirs:  # the same sums of gradients in another order, through three steps of AdamW
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=2e-3 * np.abs(theirs[key]).max() + 1e-7)


def test_a_limit_that_nothing_meets_is_told_before_training(config: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"--memory-limit 0.1: one row at a time .* mlx_phi3v.plan"):
        train(replace(config, memory_limit=0.1))
    assert not config.output.exists()
    with pytest.raises(UserError, match="--memory-limit plans for MLX"):
        train(replace(config, memory_limit=10.0, backend="torch"))
