"""Which claim two runs support: the same computation, or two adapters; and what answers it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from tests.helpers.synthetic_runs import Row, answer, make_rows, write_run


def scored(noise: float, *, seed: int) -> list[Row]:
    """Rows whose log-probabilities lie `noise` nats (one standard deviation) beside -1."""
    generator = np.random.default_rng(seed)
    rows = make_rows(60)
    for row in rows:
        row["logprobs"] = (-1 - np.abs(noise * generator.normal(size=len(row["token_ids"])))).tolist()
    return rows


def against(folder: Path, rows: list[Row], other: list[Row], **changes: Any) -> Comparison:
    folder.mkdir(exist_ok=True)
    return compare_runs(write_run(folder / "a", rows), write_run(folder / "b", other, **changes), resamples=20)


def test_one_adapter_on_two_backends_within_rounding_is_the_same_computation(tmp_path: Path) -> None:
    found = against(tmp_path, scored(0, seed=0), scored(1e-4, seed=1), backend="mlx")
    assert found.claim.kind == "computation" and found.claim.answer is True
    assert "(same computation: yes)" in found.first_line
    assert "One adapter, backend: torch | mlx." in found.claim.sentence and "no more than rounding" in found.claim.sentence


def test_more_than_rounding_is_not_the_same_computation(tmp_path: Path) -> None:
    found = against(tmp_path, scored(0, seed=0), scored(0.1, seed=1), backend="mlx")
    assert found.claim.answer is False and "(same computation: no)" in found.first_line
    assert "more than rounding (up to 0.001)" in found.claim.sentence


def test_answers_that_diverge_away_from_near_ties_are_not_the_same_computation(tmp_path: Path) -> None:
    rows = scored(0, seed=0)
    others = copy.deepcopy(rows)
    for row in others[:12]:  # as of a temperature in B's code alone: the log-probabilities before it agree
        answer(row, "Product: other, " + row["text"].partition(", ")[2], logprob=-1.0)
    unknown = against(tmp_path / "unknown", rows, others, backend="mlx")
    assert unknown.claim.answer is None and "too little was recorded" in unknown.claim.sentence
    for row in (*rows, *others):
        row["top_k"] = [[(token, -1.0), (1, -9.0)] for token in row["token_ids"]]
    found = against(tmp_path, rows, others, backend="mlx")
    assert found.logit_noise.rounding and found.claim.answer is False
    assert "12 answers diverge, 12 of them otherwise than at a near-tie" in found.claim.sentence


def test_without_log_probabilities_it_is_not_answered(tmp_path: Path) -> None:
    rows = make_rows(20)
    found = against(tmp_path, rows, copy.deepcopy(rows), settings={"dtype": "bfloat16"})
    assert found.claim.answer is None and "(same computation: not answered)" in found.first_line


def test_a_floor_is_said_with_the_answer(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", scored(0, seed=0)), write_run(tmp_path / "b", scored(4e-4, seed=1), backend="mlx")
    floor = write_run(tmp_path / "f", scored(2e-4, seed=2), label="eager", batch_size=1)
    found = compare_runs(a, b, floor=[floor], resamples=20)
    assert found.floors[0].times_mean == pytest.approx(2, rel=0.1)  # over some thousand tokens
    assert f"{found.floors[0].times_mean:.3g} times the noise floor eager" in found.claim.sentence


@pytest.mark.parametrize(
    ("changes", "scope"),
    [
        ({"hashes": {"base": "e" * 64}}, "these two models only"),
        ({"hashes": {"base": "e" * 64}, "backend": "mlx"}, "these two models only"),
        ({"hashes": {"adapter": "f" * 64}}, "these two adapters only"),
        ({"hashes": {"adapter": None}}, "these two models only"),
        ({"hashes": {"adapter": "f" * 64}, "backend": "mlx"}, "these two adapters only"),
        ({"batch_size": 1}, ""),
    ],
)
def test_two_adapters_are_said_to_be_two_adapters(tmp_path: Path, changes: dict[str, Any], scope: str) -> None:
    rows = make_rows(200)
    found = against(tmp_path, rows, rows, **changes)
    assert found.claim.scope == scope
    assert found.first_line == "EQUIVALENT on category3_code and full_price" + (f" ({scope})" if scope else "")


def test_runs_that_record_no_weights_are_two_runs(tmp_path: Path) -> None:
    rows = make_rows(200)
    unknown: dict[str, Any] = {"hashes": {"adapter": None, "base": None}}
    runs = write_run(tmp_path / "a", rows, **unknown), write_run(tmp_path / "b", rows, **unknown)
    assert compare_runs(*runs, resamples=20).claim.scope == "these two runs only"
