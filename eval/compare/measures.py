"""Every measure of two runs over the products they share: all rows, rows both parsed, and category by category."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runs.columns import Bools, Columns, FieldColumn, Ints, first_category
from ..runs.run import Run
from . import metrics, statistics
from .comparable import Join
from .metrics import METRICS, Metric
from .statistics import Interval, PairedDifference, PairedProportion, PairedResamples

LEVEL = 0.95
OUTCOMES = ("both right", "only A", "only B", "both wrong")
NO_CATEGORY = "(none)"


@dataclass(frozen=True)
class MetricRow:
    """One measure on both runs. The interval is on B - A at 95 %; None where there is nothing to measure."""

    field: str
    kind: str
    metric: str
    label: str
    unit: str
    better: int
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    method: str  # "score" (Tango) or "bootstrap"
    rows: int  # rows judged; for errors over parsed rows, the smaller of the two sides' counts
    only_a: int | None  # for a share: rows only A has (right, or failed), rows only B has
    only_b: int | None
    p_value: float | None  # exact McNemar


@dataclass(frozen=True)
class Joined:
    """Both runs with their columns aligned: row i of `fields_a` and `fields_b` is product `join.ids[i]`."""

    run_a: Run
    run_b: Run
    columns_a: Columns
    columns_b: Columns
    join: Join
    fields_a: dict[str, FieldColumn]
    fields_b: dict[str, FieldColumn]
    right_a: Bools
    right_b: Bools
    category: list[str | None]

    def rows(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both runs' full rows of joined product i, read from disk."""
        return (
            self.run_a.read(int(self.columns_a.offsets[self.join.a[i]])),
            self.run_b.read(int(self.columns_b.offsets[self.join.b[i]])),
        )

    def outcome(self, i: int) -> str:
        """Which side is right on joined product i."""
        return OUTCOMES[(0 if self.right_b[i] else 1) if self.right_a[i] else (2 if self.right_b[i] else 3)]


def align(run_a: Run, run_b: Run, columns_a: Columns, columns_b: Columns, joined: Join) -> Joined:
    names = [name for name in columns_a.fields if name in columns_b.fields]
    fields_a = {name: columns_a.fields[name].take(joined.a) for name in names}
    fields_b = {name: columns_b.fields[name].take(joined.b) for name in names}
    group = first_category(run_a.task)
    category = list(fields_a[group].true) if group in fields_a else [None] * len(joined.ids)
    return Joined(
        run_a, run_b, columns_a, columns_b, joined, fields_a, fields_b, _all_right(fields_a), _all_right(fields_b), category
    )


def _all_right(fields: Mapping[str, FieldColumn]) -> Bools:
    """Rows on which every category and price is right; of a task that has neither, every text."""
    judged = [item for item in fields.values() if item.kind != "text"] or list(fields.values())
    return np.all([metrics.right(item) | ~item.has_truth for item in judged], axis=0)


def _pair(metric: Metric, a: FieldColumn, b: FieldColumn, samples: Any, sides: list[statistics.Statistic]) -> PairedDifference:
    if metric.form == "proportion":
        left, right = sides
        assert isinstance(left, statistics.Mean) and isinstance(right, statistics.Mean)
        mask = left.mask & right.mask
        x, y = left.values[mask] > 0, right.values[mask] > 0
        return PairedProportion(int((x & ~y).sum()), int((~x & y).sum()), int(mask.sum()))
    identical = bool(np.array_equal(a.status, b.status)) and _same_values(a, b)
    rows = int((a.has_truth & b.has_truth).sum())
    return PairedResamples(sides[1].point() - sides[0].point(), samples, rows, identical, metric.bounded)


def _same_values(a: FieldColumn, b: FieldColumn) -> bool:
    if a.kind == "number":
        return bool(np.array_equal(a.predicted, b.predicted, equal_nan=True))
    return bool(np.array_equal(a.predicted, b.predicted))


def measure(
    data: Joined, rows: Ints, *, seed: int, resamples: int, only: str | None = None, one_category: bool = False
) -> tuple[list[MetricRow], dict[tuple[str, str], PairedDifference]]:
    """Every measure of every field (or of field `only`) on these joined rows.

    `one_category` leaves out macro-F1, which says nothing where the truth is one class.
    """
    fields = {
        name: (column.take(rows), data.fields_b[name].take(rows))
        for name, column in data.fields_a.items()
        if only in (None, name)
    }
    wanted = [
        (name, metric)
        for name, (a, _) in fields.items()
        for metric in METRICS[a.kind]
        if not (one_category and metric.form == "macro_f1")
    ]
    sides = [metrics.paired_statistics(metric, list(fields[name])) for name, metric in wanted]
    drawn = [i for i, (_, metric) in enumerate(wanted) if metric.form != "proportion"]
    flat = [side for i in drawn for side in sides[i]]
    samples = statistics.bootstrap(flat, len(rows), seed=seed, resamples=resamples) if flat else np.zeros((resamples, 0))
    found: list[MetricRow] = []
    paired: dict[tuple[str, str], PairedDifference] = {}
    for i, (name, metric) in enumerate(wanted):
        gaps = None
        if i in drawn:
            column = 2 * drawn.index(i)
            gaps = samples[:, column + 1] - samples[:, column]
        difference = _pair(metric, *fields[name], gaps, sides[i])
        paired[name, metric.name] = difference
        found.append(_metric_row(name, metric, fields[name][0].kind, difference, sides[i]))
    return found, paired


def _metric_row(
    name: str, metric: Metric, kind: str, difference: PairedDifference, sides: list[statistics.Statistic]
) -> MetricRow:
    interval: Interval = difference.interval(statistics.normal_quantile(LEVEL)) if difference.n else (math.nan, math.nan)
    share = difference if isinstance(difference, PairedProportion) else None
    counts = [int(side.mask.sum()) if not isinstance(side, statistics.MacroF1) else int(difference.n) for side in sides]
    return MetricRow(
        field=name,
        kind=kind,
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        better=metric.better,
        a=metrics.finite(sides[0].point()),
        b=metrics.finite(sides[1].point()),
        difference=metrics.finite(difference.estimate),
        interval=(metrics.finite(interval[0]), metrics.finite(interval[1])),
        method=difference.method,
        rows=min(counts),
        only_a=int(share.only_a) if share else None,
        only_b=int(share.only_b) if share else None,
        p_value=difference.p_value() if difference.n else None,
    )


def measure_both_parsed(data: Joined, everything: list[MetricRow], *, seed: int, resamples: int) -> list[MetricRow]:
    """Each field's measures over the rows whose answers both parsed in that field; `everything` over all rows."""
    found: list[MetricRow] = []
    for name, column in data.fields_a.items():
        both = column.parsed & data.fields_b[name].parsed
        rows = everything
        if not both.all():
            rows = measure(data, np.flatnonzero(both), seed=seed, resamples=resamples, only=name)[0]
        found += [row for row in rows if row.field == name and row.metric != "parse_failures"]
    return found


def measure_by_category(data: Joined, *, seed: int, resamples: int) -> dict[str, list[MetricRow]]:
    """Every measure within each true category, the largest first."""
    if all(value is None for value in data.category):
        return {}
    names = np.array([NO_CATEGORY if value is None else value for value in data.category], dtype=object)
    sizes = Counter(names.tolist())
    return {
        name: measure(data, np.flatnonzero(names == name), seed=seed, resamples=resamples, one_category=True)[0]
        for name, _ in sizes.most_common()
    }
