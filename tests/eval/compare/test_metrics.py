"""Measures of one run, checked against hand-made cases and slow, plain definitions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.compare.metrics import RowValues, get_metric
from eval.compare.score_run import NOT_PARSED, score_run
from eval.compare.statistics import MacroF1
from eval.runs.columns import read_columns
from mlx_phi3v.task import Field, FieldKind, Task
from tests.helpers.synthetic_runs import answer, make_rows, write_run


def priced(tmp_path: Path, pairs: list[tuple[float | None, float | str | None]]) -> dict[str, Any]:
    """Scores of a price-only task; a predicted text is an answer that does not parse."""
    task = Task((Field("price", "number"),), "p", "Price: {price}")
    rows = []
    for i, (true, predicted) in enumerate(pairs):
        row = {"id": str(i), "true": {"price": true}}
        rows.append(answer(row, "nothing" if predicted is None else f"Price: {predicted}", task=task))
    scores: dict[str, Any] = score_run(write_run(tmp_path / "run", rows, task=task))["fields"]["price"]
    return scores


def test_price_measures_on_known_prices(tmp_path: Path) -> None:
    scores = priced(tmp_path, [(100, 100), (100, 110), (100, 124), (100, 1000), (100, 1.0), (100, None), (100, "cheap")])
    values = {name: item["value"] for name, item in scores["metrics"].items()}
    assert scores["judged"] == 7
    assert values["within_1"] == 1 / 7 and values["within_10"] == 2 / 7 and values["within_25"] == 3 / 7
    assert values["slips"] == 2 / 7 and values["parse_failures"] == 2 / 7
    assert values["median_ape"] == pytest.approx(0.24)
    assert values["mean_ape"] == pytest.approx((0 + 0.1 + 0.24 + 9 + 0.99) / 5)
    assert scores["metrics"]["median_ape"]["rows"] == 5
    logs = [0, math.log(1.1), math.log(1.24), math.log(10), math.log(0.01)]
    assert values["log_error"] == pytest.approx(np.mean(logs))
    assert scores["statuses"] == {"ok": 5, "missing": 1, "duplicate": 0, "malformed": 1, "truncated": 0}


def test_free_and_missing_true_prices_give_no_infinity(tmp_path: Path) -> None:
    scores = priced(tmp_path, [(0.0, 0.0), (0.0, 5.0), (None, 5.0), (10.0, 0.0)])
    values = {name: item["value"] for name, item in scores["metrics"].items()}
    assert scores["judged"] == 3
    assert values["within_1"] == pytest.approx(1 / 3)
    assert values["mean_ape"] == 1.0 and scores["metrics"]["mean_ape"]["rows"] == 1
    assert values["log_error"] is None and scores["metrics"]["log_error"]["interval"] == [None, None]


def test_an_answer_that_does_not_parse_is_wrong(tmp_path: Path) -> None:
    rows = make_rows(10, right=1.0)
    for row in rows[:4]:
        answer(row, "I cannot tell.")
    fields = score_run(write_run(tmp_path / "run", rows))["fields"]
    assert fields["category3_code"]["metrics"]["accuracy"]["value"] == 0.6
    assert sum(row.get(NOT_PARSED, 0) for row in fields["category3_code"]["confusion"].values()) == 4
    assert fields["title"]["metrics"]["parse_failures"]["value"] == 0.4


def test_a_truncated_answer_counts_as_truncated_not_as_its_beginning(tmp_path: Path) -> None:
    rows = make_rows(4)
    answer(rows[0], rows[0]["text"][:-1], finish="length")
    run = write_run(tmp_path / "run", rows)
    assert score_run(run)["fields"]["full_price"]["statuses"]["truncated"] == 1


@pytest.mark.parametrize("kinds", [("category",), ("text",), ("number",), ("category", "category", "number", "number")])
def test_any_set_of_fields_scores(tmp_path: Path, kinds: tuple[FieldKind, ...]) -> None:
    fields = tuple(Field(f"f{i}", kind) for i, kind in enumerate(kinds))
    task = Task(fields, "p", ", ".join(f"F{i}: {{f{i}}}" for i in range(len(kinds))))
    rows = []
    for i in range(8):
        values = {item.name: 5.0 + i if item.kind == "number" else f"v{i % 3}" for item in fields}
        rows.append(answer({"id": str(i), "true": values}, task.answer(values), task=task))
    scores = score_run(write_run(tmp_path / "run", rows, task=task))
    best = {"category": "accuracy", "text": "exact", "number": "within_1"}
    for item in fields:
        assert scores["fields"][item.name]["metrics"][best[item.kind]]["value"] == 1.0


def plain_macro_f1(true: list[int], predicted: list[int]) -> float:
    scores = []
    for c in set(true):
        hits = sum(t == p == c for t, p in zip(true, predicted))
        scores.append(2 * hits / (true.count(c) + predicted.count(c)))
    return sum(scores) / len(scores)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 4)), min_size=1, max_size=40), st.integers(0, 1000))
def test_macro_f1_matches_its_definition_also_when_resampled(rows: list[tuple[int, int]], seed: int) -> None:
    true, predicted = [t for t, _ in rows], [p for _, p in rows]
    statistic = MacroF1(np.array(true), np.array(predicted), 5)
    assert statistic.point() == pytest.approx(plain_macro_f1(true, predicted))
    drawn = np.random.default_rng(seed).integers(0, len(rows), len(rows))
    weights = np.bincount(drawn, minlength=len(rows)).astype(float)[None]
    expected = plain_macro_f1([true[i] for i in drawn], [predicted[i] for i in drawn])
    assert statistic.resampled(weights)[0] == pytest.approx(expected)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 1e6), st.one_of(st.floats(0.01, 1e6), st.just(math.nan)), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_price_bands_are_nested_and_shares_stay_shares(rows: list[tuple[float, float, bool]]) -> None:
    from eval.runs.columns import FieldColumn

    true, predicted = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    status = np.where(np.isnan(predicted), 3, 0).astype(np.int8)
    flags = np.zeros(len(rows), dtype=bool)
    column = FieldColumn("p", "number", true, predicted, np.array([r[2] for r in rows]), status, flags, flags.astype(float))

    def values(name: str) -> RowValues:
        rows = get_metric("number", name).rows
        assert rows is not None
        return rows(column)

    bands = [values(f"within_{band}")[0] for band in (1, 5, 10, 25)]
    for narrow, wide in itertools.pairwise(bands):
        assert (narrow <= wide).all()
    for name in ("slips", "parse_failures", "log_error", "mean_ape"):
        assert np.isfinite(values(name)[0]).all()
    assert not (np.isnan(predicted) & (bands[3] > 0)).any()


def test_intervals_hold_the_value_and_narrow_with_rows(tmp_path: Path) -> None:
    few = score_run(write_run(tmp_path / "few", make_rows(50)))
    many = score_run(write_run(tmp_path / "many", make_rows(800)))
    for name, item in few["fields"].items():
        for metric, score in item["metrics"].items():
            low, high = score["interval"]
            assert low - 1e-9 <= score["value"] <= high + 1e-9
            wide = many["fields"][name]["metrics"][metric]["interval"]
            assert wide[1] - wide[0] < high - low or high == low


def test_offsets_in_columns_find_the_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(30))
    columns = read_columns(run)
    with run.reader() as read:
        for i in (0, 13, 29):
            assert read(int(columns.offsets[i])).id == columns.ids[i]
