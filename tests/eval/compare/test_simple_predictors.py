"""A run that does not beat simple predictors makes a comparison NOT MEANINGFUL."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from eval.compare.__main__ import main
from eval.compare.compare_runs import compare_runs
from eval.compare.simple_predictors import check_floor, leave_one_out_medians, simple_column
from eval.compare.verdict import gated_metrics
from eval.runs.columns import read_columns
from mlx_phi3v.task import Task
from tests.helpers.synthetic_runs import CATEGORIES, Row, answer, changed, make_rows, write_run

ROWS = make_rows(300)


def untuned(row: Row) -> None:
    answer(row, "I see a photo of a thing.")


def test_two_untuned_runs_are_not_meaningful(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = changed(ROWS, lambda i, row: True, untuned)
    write_run(tmp_path / "a", rows)
    write_run(tmp_path / "b", rows, backend="mlx")
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--resamples", "50", "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"] == "NOT MEANINGFUL" and value["exit_status"] == 4
    assert value["first_line"].startswith("NOT MEANINGFUL: A (0.0 %) and B (0.0 %) do not beat the most frequent category (")
    assert {check["side"] for check in value["simple"] if check["fails"]} == {"A", "B"}


def test_one_untuned_run_is_named_and_how_much_worse_it_is(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", copy.deepcopy(ROWS))
    b = write_run(tmp_path / "b", changed(ROWS, lambda i, row: True, untuned))
    found = compare_runs(a, b, resamples=50)
    assert found.verdict == "NOT MEANINGFUL"
    assert "B (0.0 %) does not beat" in found.first_line and "A (" not in found.first_line
    assert "worse by more than 2" in found.first_line


def test_a_run_that_always_says_the_most_frequent_category_is_not_meaningful(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for i, row in enumerate(rows):
        row["true"]["category3_code"] = "BAGS" if i % 10 else "COATS"
        row["predicted"]["category3_code"]["value"] = "BAGS"
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", rows), resamples=50)
    assert found.verdict == "NOT MEANINGFUL" and "on category3_code" in found.first_line
    assert "full_price" not in found.first_line  # its prices are far better than the median


def test_beating_has_to_be_shown_where_both_would_be_called_as_good(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for i, row in enumerate(rows):  # one row better than the constant: chance
        row["true"]["category3_code"] = "BAGS" if i % 10 else "COATS"
        row["predicted"]["category3_code"]["value"] = "COATS" if i == 0 else "BAGS"
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", rows), resamples=50)
    assert found.verdict == "NOT MEANINGFUL" and "are not shown to beat" in found.first_line


def test_a_tuned_run_beats_the_predictors(tmp_path: Path) -> None:
    found = compare_runs(write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", ROWS), resamples=50)
    assert found.verdict == "EQUIVALENT" and all(check.beats and not check.fails for check in found.simple)
    assert {(check.side, check.metric) for check in found.simple} == {
        (side, metric) for side in "AB" for metric in ("accuracy", "within_10")
    }


def test_on_a_few_rows_neither_is_shown(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS[:8])
    for i, row in enumerate(rows):
        row["true"]["category3_code"] = CATEGORIES[i % 3]
        row["predicted"]["category3_code"]["value"] = CATEGORIES[0]
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", rows), resamples=50)
    assert found.verdict == "INCONCLUSIVE" and not any(check.fails for check in found.simple)


def test_a_categorys_only_row_is_not_its_own_median(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS[:20])
    for i, row in enumerate(rows):
        row["true"] |= {"category3_code": f"c{i}", "full_price": 100.0 * 2**i}
    columns = read_columns(write_run(tmp_path / "a", rows))
    simple = simple_column(columns.fields["full_price"], list(columns.fields["category3_code"].true))
    assert np.all(simple.predicted != simple.true)


def test_leave_one_out_medians_are_those_of_the_others() -> None:
    generator = np.random.default_rng(0)
    for n in (2, 3, 6, 11):
        values = generator.choice([1.0, 2.0, 5.0, 9.0], n)
        expected = [np.median(np.delete(values, i)) for i in range(n)]
        assert leave_one_out_medians(values) == pytest.approx(expected)
    assert np.isnan(leave_one_out_medians(np.array([3.0]))).all()


def test_balanced_categories_leave_the_constant_predictor_its_share(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS[:100])
    for i, row in enumerate(rows):
        row["true"]["category3_code"] = CATEGORIES[i % 5]
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", rows), resamples=50)
    checks = check_floor(found.data, gated_metrics(Task(), None))
    assert {check.floor for check in checks if check.metric == "accuracy"} == {0.2}
