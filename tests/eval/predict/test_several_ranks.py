"""Several ranks predict what one process does: the same rows in the same order, as one run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from eval.predict.several_ranks import make_one_run, own_share
from eval.runs.run import Run
from mlx_phi3v.backend import Backend
from mlx_phi3v.errors import UserError
from tests.helpers.several_ranks import launch
from tests.helpers.synthetic_runs import make_rows, write_run


def command(config: PredictConfig) -> list[str]:
    return [
        "-m", "eval.predict", "--data", str(config.data), "--model", config.model, "--backend", config.backend,
        "--split", "train", "--limit", "5", "--num-crops", "1", "--max-new-tokens", "3", "--output", str(config.output),
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


# slow: torch takes seconds to start, twice; the ranks' own code is the same.
@pytest.mark.parametrize("backend_name", ["mlx", pytest.param("torch", marks=pytest.mark.slow)], indirect=True)
def test_two_ranks_write_the_run_of_one(config: PredictConfig, tmp_path: Path) -> None:
    predict(config)
    both = replace(config, output=tmp_path / "both")
    ended = launch(config.backend, [command(both)] * 2, tmp_path)
    assert [one.returncode for one in ended] == [0, 0], [one.stderr[-2000:] for one in ended]
    assert len(answers(both.output)) == 5 and answers(both.output) == answers(config.output)
    run = Run.load(both.output)
    assert run.finished and run.manifest["shard"] is None and run.label == "both"
    assert not list(tmp_path.glob(".both*"))


class SecondOfTwo:
    """As much of a backend as a share of the rows needs."""

    def world(self) -> tuple[int, int]:
        return 1, 2


def test_a_rank_takes_its_share_or_says_why_not(tmp_path: Path) -> None:
    backend: Any = SecondOfTwo()
    config = PredictConfig(data=tmp_path, output=tmp_path / "run")
    share = own_share(config, backend)
    assert (share.shard, share.label, share.output) == ("2/2", "run", tmp_path / ".run.of-2" / "2")
    with pytest.raises(UserError, match=r"--shard is of processes .*leave it out"):
        own_share(replace(config, shard="1/2"), backend)
    with pytest.raises(UserError, match="--trace runs in one process"):
        own_share(replace(config, trace=tmp_path), backend)
    config.output.mkdir()
    (config.output / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is there already"):
        own_share(config, backend)


class FirstOfTwo:
    """As much of a backend as an ending needs."""

    def world(self) -> tuple[int, int]:
        return 0, 2

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        return values


def test_ranks_that_were_killed_before_they_removed_their_parts_remove_them(tmp_path: Path) -> None:
    config, backend = PredictConfig(data=tmp_path, output=tmp_path / "run"), cast(Backend, FirstOfTwo())
    parts, rows = tmp_path / ".run.of-2", make_rows(4)
    for i in (1, 2):
        write_run(parts / str(i), rows[i - 1 :: 2], shard=[i, 2])
    left = tmp_path / "left"
    shutil.copytree(parts, left)
    make_one_run(config, backend)
    whole = (config.output / "predictions.jsonl").read_bytes()
    left.rename(parts)
    assert own_share(config, backend).output == parts / "1"
    make_one_run(config, backend)
    assert not parts.exists() and (config.output / "predictions.jsonl").read_bytes() == whole
    with pytest.raises(UserError, match="is there already"):
        own_share(config, backend)
