"""Claim (a): shown by rows enough and rounding alone; not by answers that only score alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.compare.compare_runs import compare_runs
from eval.demo.same_computation import SameComputation, same_computation
from tests.helpers.synthetic_runs import Row, answer, changed, make_rows, write_run

TELLING = -0.5  # a log-probability at which a token has a rival, so that a gap says something about the logits


def judged(folder: Path, rows: list[Row], others: list[Row]) -> SameComputation:
    a, b, floor = (
        write_run(folder / name, answers, label=name, backend=name)
        for name, answers in (("torch", rows), ("mlx", others), ("again", shifted(rows, 2e-6)))
    )
    return same_computation(compare_runs(a, b, floor=[floor], resamples=50))


def shifted(rows: list[Row], nats: float) -> list[Row]:
    return changed(rows, lambda i, row: True, lambda row: answer(row, row["text"], logprob=TELLING + nats))


def test_the_same_tokens_and_a_gap_of_rounding_show_it(tmp_path: Path) -> None:
    rows = shifted(make_rows(300, right=0.9), 0.0)
    found = judged(tmp_path, rows, shifted(rows, 4e-6))
    assert (found.state, found.same, found.recorded, found.rows) == ("SHOWN", 300, 300, 300)
    assert found.mean == pytest.approx(4e-6) and found.floor_mean == pytest.approx(2e-6)
    assert found.tokens_line == "the same tokens in 300 of 300 answers"
    assert "2.0 times what torch differs from itself at batch size 1" in found.gap_line("torch")


def test_the_same_answers_of_another_model_do_not(tmp_path: Path) -> None:
    rows = shifted(make_rows(300, right=0.9), 0.0)
    found = judged(tmp_path, rows, shifted(rows, 0.01))  # ten times what fp32 rounds
    assert found.state == "NOT SHOWN" and found.same == 300 and found.answer is False


def test_answers_that_got_worse_do_not(tmp_path: Path) -> None:
    rows = shifted(make_rows(300, right=0.9), 0.0)
    worse = changed(rows, lambda i, row: i % 5 == 0, lambda row: answer(row, "no idea", logprob=TELLING))
    assert judged(tmp_path, rows, worse).state == "NOT SHOWN"


def test_a_few_rows_settle_nothing(tmp_path: Path) -> None:
    rows = shifted(make_rows(20, right=0.9), 0.0)
    assert judged(tmp_path, rows, shifted(rows, 4e-6)).state == "NOT SETTLED"
