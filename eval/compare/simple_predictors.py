"""Simple predictors, made of the true values alone: a run that does not beat them has learnt nothing worth a verdict.

- category: always the most frequent category of the rows compared;
- number: the median of the other products of the same true category (of all others where there is none), leave-one-out:
  a category's only product would else be its own prediction. Knowing the true category is to the predictor's advantage;
- text: always the most frequent text;
- score of another harness: 0. What chance gives there is not known.
The two constants are not made leave-one-out: where the categories are balanced, leaving a row out makes its own category
the rarer one, and the predictor is always wrong. One constant chosen out of n rows gains little by having seen them.

Before a verdict that two runs are as good (EQUIVALENT, NO WORSE) a run has to be shown to beat the predictor: the one-sided
5 % score test must reject that it is no better. Before any other verdict it must not be shown to fail: the one-sided 95 %
bound of its gain must not lie below the margin. On a few rows neither is shown, and the verdict is INCONCLUSIVE as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from ..runs.columns import FieldColumn, Ints
from .metrics import Metric
from .paired_measures import judged_difference
from .paired_runs import PairedRuns
from .statistics import Floats, JudgedDifference, normal_quantile

_Z = normal_quantile(0.9)  # one-sided 5 %
PREDICTORS = {
    "category": "the most frequent category", "number": "the median of its category", "text": "the most frequent text",
    "score": "an answer that is always wrong",
}  # fmt: skip


@dataclass(frozen=True)
class SimpleCheck:
    """One deciding measure of one run against its simple predictor. Shares."""

    side: str  # "A" or "B"
    field: str
    metric: str
    label: str
    predictor: str
    floor: float  # what the simple predictor reaches
    value: float  # what the run reaches
    beats: bool  # that it beats the predictor is shown
    fails: bool  # that it does not, by the margin, is shown


def check_floor(data: PairedRuns, gated: Sequence[tuple[str, Metric, float]]) -> list[SimpleCheck]:
    """Both runs against the simple predictors, on every deciding measure of which more is better."""
    found = []
    for side, fields in (("A", data.fields_a), ("B", data.fields_b)):
        for name, metric, margin in gated:
            if name in fields and metric.better > 0 and fields[name].has_truth.any():
                found.append(_check(side, name, metric, margin, fields[name], data.category, data.products.clusters))
    return found


def _check(
    side: str, name: str, metric: Metric, margin: float, column: FieldColumn, category: Sequence[str | None],
    clusters: Ints | None,
) -> SimpleCheck:  # fmt: skip
    simple = simple_column(column, category, clusters)
    return check_value(side, name, metric, margin, simple, judged_difference(metric, simple, column, clusters))


def check_value(
    side: str, name: str, metric: Metric, margin: float, simple: FieldColumn, gain: JudgedDifference
) -> SimpleCheck:  # fmt: skip
    """A check from the simple predictor's column and what the run, or the side, gains over it."""
    assert metric.rows is not None
    values, mask = metric.rows(simple)
    floor = float(values[mask].mean())
    return SimpleCheck(
        side, name, metric.name, metric.label, PREDICTORS[simple.kind], floor, floor + gain.estimate,
        beats=gain.score(0.0) > _Z, fails=gain.score(margin) < -_Z,
    )  # fmt: skip


def simple_column(column: FieldColumn, category: Sequence[str | None], clusters: Ints | None = None) -> FieldColumn:
    """The column as the simple predictor would have answered it. clusters: each row's product [n]; None: one each."""
    parsed = np.zeros(len(column.true), dtype=np.int8)
    if column.kind == "number":
        return replace(column, predicted=_medians(column.true, column.has_truth, category, clusters), status=parsed)
    if column.kind == "score":
        return replace(column, predicted=np.zeros(len(column.true)), status=parsed)
    counts = Counter(value for value in column.true.tolist() if value is not None)
    constant = min(counts, key=lambda value: (-counts[value], value))
    predicted = np.full(len(column.true), constant, dtype=object)
    if column.kind == "category":
        return replace(column, predicted=predicted, status=parsed)
    exact = np.array([value == constant for value in column.true], dtype=bool)
    ratio = np.array([0.0 if value is None else fuzz.ratio(value, constant) / 100 for value in column.true])
    return replace(column, predicted=predicted, status=parsed, exact=exact, ratio=ratio)


def _medians(
    true: NDArray[Any], judged: NDArray[np.bool_], category: Sequence[str | None], clusters: Ints | None
) -> Floats:  # fmt: skip
    """For each row the median of the other judged rows of its category; of all others where it is alone [n]."""
    medians = np.full(len(true), np.nan)
    everything = np.flatnonzero(judged)
    medians[everything] = _of_others(true, everything, clusters)
    names = np.array([value or "" for value in category], dtype=object)[everything]
    _, code = np.unique(names, return_inverse=True)
    for group in range(int(code.max(initial=-1)) + 1):
        rows = everything[code == group]
        found = _of_others(true, rows, clusters)
        medians[rows] = np.where(np.isnan(found), medians[rows], found)
    return medians


def _of_others(true: Floats, rows: Ints, clusters: Ints | None) -> Floats:
    """For each of these rows the median of the other products, one row each; NaN where there is no other."""
    if clusters is None:
        return leave_one_out_medians(true[rows])
    _, first, product = np.unique(clusters[rows], return_index=True, return_inverse=True)
    return leave_one_out_medians(true[rows[first]])[product]


def leave_one_out_medians(values: Floats) -> Floats:
    """For each value the median of all others [n]; NaN where there is no other.

    >>> leave_one_out_medians(np.array([1.0, 2.0, 4.0])).tolist()
    [3.0, 2.5, 1.5]
    """
    n = len(values)
    if n < 2:
        return np.full(n, np.nan)
    order = np.argsort(values, kind="stable")
    ranked, rank = values[order], np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    # Of the n - 1 others these two ranks are in the middle; behind the row itself every rank is one further.
    middle = [(n - 2) // 2, (n - 1) // 2]
    low, high = (ranked[k + (k >= rank)] for k in middle)
    return np.asarray((low + high) / 2)


def shortfalls(checks: Sequence[SimpleCheck], *, as_good: bool) -> list[SimpleCheck]:
    """The checks that make a comparison NOT MEANINGFUL; `as_good`: whether its verdict would be that both are as good."""
    return [check for check in checks if (not check.beats if as_good else check.fails)]
