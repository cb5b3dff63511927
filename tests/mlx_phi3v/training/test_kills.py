"""A training killed before any call that writes goes on to the same result, and leaves nothing behind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from mlx_phi3v.files import is_temporary
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig
from tests.helpers.kills import Killed, killed_before
from tests.mlx_phi3v.training.test_train import adapter_of, log


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> TrainConfig:
    """Three steps, each with a checkpoint; a validation before the second and the last."""
    pytest.importorskip("mlx")
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "root" / "run", model=str(checkpoint), backend="mlx", dtype="float32",
        max_steps=3, batch_size=2, learning_rate=1e-3, warmup_steps=0, r=2, vision="off", projector="off", num_crops=1,
        steps_per_report=1, steps_per_eval=2, val_rows=2, save_every=1, resume=True,
    )  # fmt: skip


def result(output: Path) -> tuple[Any, ...]:
    """What a training is for: adapters, losses, checkpoints, and no other file."""
    adapters = [{key: value.tobytes() for key, value in adapter_of(output, which).items()} for which in ("last", "best")]
    return adapters, [(line["step"], line["loss"]) for line in log(output)], sorted(os.listdir(output))


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_killed_before_any_write_ends_alike(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    root = config.output.parent
    root.mkdir()
    with killed_before(None, config.output, monkeypatch) as calls:
        train(config)
    whole, points = result(config.output), len(calls)
    assert points > 60 and {call.split()[0] for call in calls} >= {"open", "os.rename", "os.symlink", "os.mkdir", "os.rmdir"}
    # The end is where no later step mends what a kill left: all of it is tried each time.
    for number in sorted({*range(1, points + 1, every), *range(points - 6, points + 1)}):
        output = root / str(number)
        with pytest.raises(Killed), killed_before(number, output, monkeypatch):
            train(replace(config, output=output))
        train(replace(config, output=output))
        assert result(output) == whole, f"killed before {calls[number - 1]}"
    print(f"train: {points} points, every {every}. of them killed, 0 bad")


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_a_feature_cache_killed_before_any_write_is_filled_alike(
    checkpoint: Path, small_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    pytest.importorskip("mlx")
    config = PredictConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend="mlx", num_crops=1, max_new_tokens=2,
        feature_cache=tmp_path / "whole",
    )  # fmt: skip
    with killed_before(None, tmp_path / "whole", monkeypatch) as calls:
        predict(config)
    whole, points = _features(tmp_path / "whole"), len(calls)
    assert len(whole) > 3
    for number in range(1, points + 1, every):
        cache = tmp_path / f"cache{number}"
        with pytest.raises(Killed), killed_before(number, cache, monkeypatch):
            predict(replace(config, output=tmp_path / f"killed{number}", feature_cache=cache))
        predict(replace(config, output=tmp_path / f"again{number}", feature_cache=cache))
        assert _features(cache) == whole, f"killed before {calls[number - 1]}"
        assert not [path for path in cache.rglob("*") if is_temporary(path)]
    print(f"feature cache: {points} points, {len(range(1, points + 1, every))} kills, 0 bad")


def _features(folder: Path) -> dict[str, dict[str, bytes]]:
    """The tensors of every file; the order of the metadata is another each time."""
    tensors = {str(path.relative_to(folder)): load_file(path) for path in folder.rglob("*.safetensors")}
    return {name: {key: value.tobytes() for key, value in found.items()} for name, found in tensors.items()}
