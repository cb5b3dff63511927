"""What is measured of each kind of field, on one run.

category  accuracy, macro-F1, confusion
number    share within 1, 5, 10, 25 %, median and mean absolute percentage error, signed log error, slips by 10 or 100
text      exact match, rapidfuzz ratio
all       parse failures

Rows without a true value are not judged. An answer that does not parse is wrong: it fails accuracy and every price
band, scores 0 in the ratio, and has no percentage error (those are over parsed rows, and say over how many).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..runs.columns import Bools, Columns, FieldColumn, Floats, read_columns
from ..runs.prediction import STATUSES
from ..runs.run import Run
from . import statistics

BANDS = (1, 5, 10, 25)
NOT_PARSED = "(not parsed)"
_SLIP_BAND = 1.25  # a slip is within this factor of ten or a hundred times the true price, or of that part of it
_ROUNDING = 1e-9  # 110 is within 10 % of 100 also in binary

Form = Literal["proportion", "mean", "median", "macro_f1"]


@dataclass(frozen=True)
class Metric:
    """A measure of one kind of field. `better` is +1 where more is better, -1 where less, 0 where zero is best."""

    name: str
    label: str
    form: Form
    better: int
    unit: Literal["share", "plain"] = "share"
    bounded: bool = False  # lies in [0, 1] row by row


_PARSE_FAILURES = Metric("parse_failures", "not parsed", "proportion", -1)
METRICS: dict[str, tuple[Metric, ...]] = {
    "category": (
        Metric("accuracy", "accuracy", "proportion", 1),
        Metric("macro_f1", "macro-F1", "macro_f1", 1, bounded=True),
        _PARSE_FAILURES,
    ),
    "number": (
        *(Metric(f"within_{band}", f"within {band} %", "proportion", 1) for band in BANDS),
        Metric("median_ape", "median abs. error", "median", -1),
        Metric("mean_ape", "mean abs. error", "mean", -1),
        Metric("log_error", "signed log error", "mean", 0, "plain"),
        Metric("slips", "slips by 10 or 100", "proportion", -1),
        _PARSE_FAILURES,
    ),
    "text": (
        Metric("exact", "exact match", "proportion", 1),
        Metric("ratio", "rapidfuzz ratio", "mean", 1, bounded=True),
        _PARSE_FAILURES,
    ),
}
# The one measure that says whether a row is right, by kind.
RIGHT = {"category": "accuracy", "number": "within_10", "text": "exact"}


def right(column: FieldColumn) -> Bools:
    """Which rows of a field are right: the category, the price within 10 %, the exact text."""
    return np.asarray(row_values(column, RIGHT[column.kind])[0] > 0)


def row_values(column: FieldColumn, metric: str) -> tuple[Floats, Bools]:
    """A metric row by row: (values [n], mask [n] of the rows that count). Not for macro-F1, which has no row value."""
    judged = column.has_truth
    if metric == "parse_failures":
        return (~column.parsed).astype(np.float64), judged
    if column.kind == "category":
        return (column.parsed & judged & (column.true == column.predicted)).astype(np.float64), judged
    if column.kind == "text":
        return (column.exact.astype(np.float64) if metric == "exact" else column.ratio), judged
    return _number_values(column, metric)


def _number_values(column: FieldColumn, metric: str) -> tuple[Floats, Bools]:
    judged = column.has_truth
    true, predicted = column.true.astype(np.float64), column.predicted.astype(np.float64)
    both = judged & column.parsed
    gap = np.abs(predicted - true)
    if metric.startswith("within_"):
        band = int(metric.removeprefix("within_")) / 100
        with np.errstate(invalid="ignore"):
            return (both & (gap <= (band + _ROUNDING) * np.abs(true))).astype(np.float64), judged
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric in ("median_ape", "mean_ape"):
            return np.nan_to_num(gap / np.abs(true), posinf=0.0), both & (true != 0)
        positive = both & (true > 0) & (predicted > 0)
        log_error = np.where(positive, np.log(predicted / true), 0.0)
    if metric == "log_error":
        return log_error, positive
    tens = log_error / np.log(10)
    near = np.abs(tens - np.round(tens)) <= np.log10(_SLIP_BAND)
    return (positive & near & np.isin(np.abs(np.round(tens)), (1, 2))).astype(np.float64), judged


def class_codes(columns: list[FieldColumn]) -> tuple[list[str], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Shared class names, and per column its (true, predicted) codes, -1 where there is none."""
    names = sorted({v for c in columns for v in (*set(c.true.tolist()), *set(c.predicted.tolist())) if v is not None})
    code = {name: index for index, name in enumerate(names)}
    coded = [
        (
            np.array([code.get(v, -1) for v in column.true], dtype=np.int64),
            np.array([code.get(v, -1) for v in column.predicted], dtype=np.int64),
        )
        for column in columns
    ]
    return names, coded


def paired_statistics(metric: Metric, columns: list[FieldColumn]) -> list[statistics.Statistic]:
    """The metric as a statistic that can be resampled, for each of several runs' columns (rows aligned)."""
    if metric.form == "macro_f1":
        names, coded = class_codes(columns)
        return [statistics.MacroF1(true, predicted, max(len(names), 1)) for true, predicted in coded]
    kind = statistics.Median if metric.form == "median" else statistics.Mean
    return [kind(*row_values(column, metric.name)) for column in columns]


def confusion(column: FieldColumn) -> dict[str, dict[str, int]]:
    """true -> predicted -> rows; answers that do not parse stand under `NOT_PARSED`."""
    counts: dict[str, Counter[str]] = {}
    for true, predicted in zip(column.true, column.predicted):
        if true is not None:
            counts.setdefault(true, Counter())[NOT_PARSED if predicted is None else predicted] += 1
    return {true: dict(counts[true].most_common()) for true in sorted(counts)}


def parse_statuses(column: FieldColumn) -> dict[str, int]:
    """Parse status -> rows, of the rows that have a true value."""
    return {name: int(((column.status == index) & column.has_truth).sum()) for index, name in enumerate(STATUSES)}


def score_run(run: Run, *, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> dict[str, Any]:
    """Every metric of one run with its interval, as JSON-ready values.

    Returns {"label", "rows", "seconds", "rows_per_second", "fields": {name: {"kind", "judged", "statuses",
    "metrics": {metric: {"value", "interval", "rows"}}, "confusion"}}}. Proportions have Wilson intervals, the rest
    bootstrap ones over products.
    """
    columns = read_columns(run)
    fields = {
        name: _score_field(column, len(columns.ids), seed=seed, resamples=resamples, level=level)
        for name, column in columns.fields.items()
    }
    return {"label": run.label, "rows": len(columns.ids), **speed(columns, run.manifest), "fields": fields}


def speed(columns: Columns, manifest: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds of work and rows a second: the rows' own times where recorded (they survive a kill), else the run's."""
    seconds = float(columns.seconds.sum()) or float(manifest.get("seconds") or 0.0)
    return {"seconds": seconds, "rows_per_second": len(columns.ids) / seconds if seconds else None}


def _score_field(column: FieldColumn, n: int, *, seed: int, resamples: int, level: float) -> dict[str, Any]:
    metrics = METRICS[column.kind]
    items = [paired_statistics(metric, [column])[0] for metric in metrics]
    drawn = [i for i, metric in enumerate(metrics) if metric.form != "proportion"]
    samples = statistics.bootstrap([items[i] for i in drawn], n, seed=seed, resamples=resamples) if drawn else None
    scores: dict[str, Any] = {}
    for i, (metric, item) in enumerate(zip(metrics, items)):
        rows = int(item.mask.sum()) if not isinstance(item, statistics.MacroF1) else int(column.has_truth.sum())
        if isinstance(item, statistics.Mean) and metric.form == "proportion":
            interval = statistics.wilson(int(item.values[item.mask].sum()), rows, level)
        else:
            assert samples is not None
            interval = statistics.percentile_interval(samples[:, drawn.index(i)], level)
        scores[metric.name] = {"value": finite(item.point()), "interval": [finite(end) for end in interval], "rows": rows}
    result: dict[str, Any] = {
        "kind": column.kind,
        "judged": int(column.has_truth.sum()),
        "statuses": parse_statuses(column),
        "metrics": scores,
    }
    if column.kind == "category":
        result["confusion"] = confusion(column)
    return result


def finite(value: float) -> float | None:
    """`value`, or None where there is none: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
