"""Several ranks train what one does; they say so where they would not, before the first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig
from tests.helpers.several_ranks import launch


@pytest.fixture
def config(backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "out", model=str(checkpoint), backend=backend_name, max_steps=4, batch_size=5,
        warmup_steps=0, r=2, num_crops=1, val_rows=3, steps_per_report=1, steps_per_eval=2, save_every=2, learning_rate=1e-3,
        json=True,
    )  # fmt: skip


def command(config: TrainConfig, **changes: Any) -> list[str]:
    """The same training as a command."""
    names = ("data", "output", "model", "backend", "max_steps", "batch_size", "warmup_steps", "r", "num_crops", "val_rows",
             "steps_per_report", "steps_per_eval", "save_every", "learning_rate", "seed")  # fmt: skip
    values = {name: getattr(config, name) for name in names} | changes
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["-m", "mlx_phi3v.train", *flags]


def log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_a_run_of_one_rank_goes_on_with_three(config: TrainConfig, tmp_path: Path) -> None:
    # A linear schedule is computed over all steps of the run: with a constant one the first half is that of the whole.
    config = replace(config, lr_schedule="constant")
    whole = replace(config, output=tmp_path / "whole")
    train(whole)
    train(replace(config, max_steps=2))
    three = [*command(config), "--lr-schedule", "constant", "--resume"]
    ended = launch(config.backend, [three] * 3, tmp_path)
    assert [one.returncode for one in ended] == [0, 0, 0], [one.stderr[-2000:] for one in ended]
    for mine, other in zip(log(config.output), log(whole.output), strict=True):
        assert (mine["step"], mine["answer_tokens"]) == (other["step"], other["answer_tokens"])
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine.get("val_loss", 0) == pytest.approx(other.get("val_loss", 0), rel=1e-5)
    adapters = [load_file(run / "last" / "adapter_model.safetensors") for run in (config.output, whole.output)]
    for key, value in adapters[0].items():
        np.testing.assert_allclose(value, adapters[1][key], atol=1e-4, err_msg=key)  # AdamW magnifies rounding


# slow: three more starts of torch; what ranks say to each other is the same code (test_ranks.py of both folders).
@pytest.mark.parametrize("backend_name", ["mlx", pytest.param("torch", marks=pytest.mark.slow)], indirect=True)
def test_ranks_that_would_train_something_else_end_before_the_first_step(config: TrainConfig, tmp_path: Path) -> None:
    ended = launch(config.backend, [command(config), command(config, seed=1), command(config)], tmp_path)
    for one in ended:
        assert one.returncode == 1 and "rank 1 in --seed" in one.stderr and "Traceback" not in one.stderr, one.stderr[-2000:]
    assert not config.output.exists()
