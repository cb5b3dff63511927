"""Several ranks predict what one process does: the same rows in the same order, as one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from eval.runs.run import Run
from tests.helpers.several_ranks import launch


def command(config: PredictConfig, *more: str) -> list[str]:
    return [
        "-m", "eval.predict", "--data", str(config.data), "--model", config.model, "--backend", config.backend,
        "--split", "train", "--limit", "5", "--num-crops", "1", "--max-new-tokens", "3", "--output", str(config.output), *more,
    ]  # fmt: skip


def answers(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "logprobs", "top_k")} for line in lines]


@pytest.fixture
def config(backend_name: str, checkpoint: Path, small_catalogue: Path, tmp_path: Path) -> PredictConfig:
    return PredictConfig(
        data=small_catalogue, output=tmp_path / "whole", model=str(checkpoint), backend=backend_name, split="train", limit=5,
        num_crops=1, max_new_tokens=3, json=True,
    )  # fmt: skip


def test_two_ranks_write_the_run_of_one(config: PredictConfig, tmp_path: Path) -> None:
    predict(config)
    both = replace(config, output=tmp_path / "both")
    ended = launch(config.backend, [command(both)] * 2, tmp_path)
    assert [one.returncode for one in ended] == [0, 0], [one.stderr[-2000:] for one in ended]
    assert len(answers(both.output)) == 5 and answers(both.output) == answers(config.output)
    run = Run.load(both.output)
    assert run.finished and run.manifest["shard"] is None and run.label == "both"
    assert not list(tmp_path.glob(".both*"))
    # A second time, and where the ranks are told to be shards: one sentence, and the run stays.
    for refused, why in ((command(both), "is there already"), (command(config, "--shard", "1/2"), "leave it out")):
        for one in launch(config.backend, [refused] * 2, tmp_path):
            assert one.returncode == 1 and why in one.stderr and "Traceback" not in one.stderr
    assert len(answers(both.output)) == 5
