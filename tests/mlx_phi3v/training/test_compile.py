"""--compile: the same numbers, and a compilation for each shape that batches are padded to, whatever the epochs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_phi3v import buckets
from mlx_phi3v.batches import Batch
from mlx_phi3v.errors import UserError
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig, check


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path, backend_name: str) -> TrainConfig:
    """Two epochs of 12 rows, whose photos have other sizes, in passes of 3."""
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend=backend_name, dtype="float32",
        epochs=2.0, batch_size=3, grad_accumulation_steps=2, learning_rate=1e-3, warmup_steps=0, r=2, num_crops=2,
        steps_per_report=1, val_rows=3, steps_per_eval=2, language="lora", vision="off", projector="off",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def compiler(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX builds C++ on a CPU. Of torch the capture is tried; what it builds, which takes a minute, is below (slow)."""
    if backend_name == "torch":
        from mlx_phi3v.backend_torch import compiled

        monkeypatch.setattr(compiled, "COMPILER", "eager")
        return
    from mlx_phi3v.backend_mlx.ops import on_cpu

    if on_cpu() and not shutil.which("g++"):
        pytest.skip("MLX needs a C++ compiler on a CPU")


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What batches were padded to."""
    seen: list[tuple[int, ...]] = []

    def noting(batch: Batch, *arguments: Any, **options: Any) -> Batch:
        filled = buckets.padded(batch, *arguments, **options)
        crops = len(filled.pixel_values) if options["crops"] else 0
        seen.append((*filled.input_ids.shape, buckets.label_bucket(batch.answer_tokens), crops))
        return filled

    for name in ("mlx", "torch"):
        pytest.importorskip(name)
        module = __import__(f"mlx_phi3v.backend_{name}.compiled", fromlist=["compiled"])
        monkeypatch.setattr(module, "padded", noting)
    return seen


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_training(ours: Path, theirs: Path) -> None:
    """To 1e-6, relative for figures and of the largest for tensors, after AdamW, which magnifies rounding."""
    for mine, other in zip(log(ours), log(theirs), strict=True):
        for key in ("loss", "val_loss", "grad_norm"):
            assert mine.get(key, 0) == pytest.approx(other.get(key, 0), rel=5e-6 if key == "grad_norm" else 1e-6), key
    mine, other = (load_file(folder / "last" / "adapter_model.safetensors") for folder in (ours, theirs))
    for key, value in other.items():
        np.testing.assert_allclose(mine[key], value, atol=1e-6, err_msg=key)


# slow: more shapes, of which MLX builds the code of each.
@pytest.mark.numeric
@pytest.mark.parametrize("image_side", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_training_is_the_same_and_compiles_each_shape_once(
    config: TrainConfig, image_side: bool, shapes: list[tuple[int, ...]]
) -> None:
    if image_side:
        config = replace(config, vision="lora", projector="lora", separators="full", grad_checkpoint=True, num_crops=1)
    assert train(replace(config, output=config.output.with_name("plain")))["compilations"] == 0 and not shapes
    summary = train(replace(config, compile=True))
    same_training(config.output, config.output.with_name("plain"))
    if config.backend == "torch":  # its layers see tokens alone, those of the tower crops alone
        tokens, crops = {shape[:2] for shape in shapes}, {shape[3] for shape in shapes} - {0}
        # The first layer that trains is another function: no gradient is asked for of its input.
        assert summary["compilations"] == (len(tokens) + 2 * len(crops) if image_side else 2 * len(tokens))
    else:
        assert summary["compilations"] == len(set(shapes))
    assert len(set(shapes)) < len(shapes)


@pytest.mark.numeric
def test_cached_features_are_padded_and_a_run_may_turn_it_on(config: TrainConfig, tmp_path: Path) -> None:
    cached = replace(config, feature_cache=tmp_path / "features", epochs=1.0)
    train(replace(cached, output=config.output.with_name("plain"), epochs=2.0, lr_schedule="constant"))
    train(replace(cached, lr_schedule="constant"))
    summary = train(replace(cached, epochs=2.0, lr_schedule="constant", resume=True, compile=True))
    assert summary["compilations"] > 0
    same_training(config.output, config.output.with_name("plain"))


def test_dropout_and_padding_are_refused_together(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="a padded batch draws other dropout masks; leave out --compile or --lora-dropout"):
        check(replace(config, compile=True, lora_dropout=0.1))


@pytest.mark.parametrize("backend_name", ["mlx"], indirect=True)
def test_a_cpu_without_a_compiler_is_told(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_phi3v.backend_mlx import compiled

    if not compiled.on_cpu():
        pytest.skip("Metal and CUDA need none")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"builds what it compiles with g\+\+, and there is none; install it, or leave --compile out"
    ):
        train(replace(config, compile=True))


@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_a_failed_build_is_told(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_phi3v.backend_torch import compiled

    def fails(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled.Compiler, "__call__", fails)
    with pytest.raises(UserError, match=r"--compile: torch could not build the step \(.*no compiler here.*\); install what"):
        train(replace(config, compile=True))


# slow: torch builds C++ for a layer, forward and backward.
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch needs a C++ compiler on a CPU")
@pytest.mark.parametrize("backend_name", ["torch"], indirect=True)
def test_what_torch_builds_trains_the_same(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_phi3v.backend_torch import compiled

    monkeypatch.setattr(compiled, "COMPILER", "inductor")
    config = replace(config, epochs=1.0)
    train(replace(config, output=config.output.with_name("plain")))
    assert train(replace(config, compile=True))["compilations"] > 0
    for mine, other in zip(log(config.output), log(config.output.with_name("plain")), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
