"""Every measure of two runs over the rows they share: all rows, rows both parsed, and category by category."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..runs.columns import FieldColumn, Ints
from . import statistics
from .metrics import METRICS, Metric
from .paired_runs import PairedRuns
from .products import within
from .statistics import (
    EffectiveMean,
    EffectiveProportion,
    Floats,
    PairedDifference,
    PairedMean,
    PairedProportion,
    PairedResamples,
    Statistic,
    clustered,
    clustered_mean,
    finite,
)

LEVEL = 0.95
NO_CATEGORY = "(none)"


@dataclass(frozen=True)
class PairedMeasure:
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
    rows: int  # rows judged; for errors over parsed rows, the smaller of the two runs' counts
    only_a: int | None  # of a share: rows that count in A only, and in B only
    only_b: int | None
    p_value: float | None  # exact: McNemar, or signs of whole products

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.interval
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True)
class _Pair:
    """One metric of one field, of both runs."""

    field: str
    metric: Metric
    a: FieldColumn
    b: FieldColumn
    sides: tuple[Statistic, Statistic]
    clusters: Ints | None


def measure(
    data: PairedRuns, rows: Ints, *, seed: int, resamples: int, only: str | None = None, one_category: bool = False
) -> list[PairedMeasure]:
    """Every metric of every field (or of field `only`) on these joined rows.

    `one_category` leaves out macro-F1, which means nothing where all true values are one class.
    """
    pairs: list[_Pair] = []
    clusters = within(data.products.clusters, rows)
    for name, column in data.fields_a.items():
        if only in (None, name):
            pairs += _pairs(name, column.take(rows), data.fields_b[name].take(rows), clusters, one_category=one_category)
    gaps = _resampled_gaps(pairs, len(rows), clusters, seed=seed, resamples=resamples)
    return [_metric_row(pair, _difference(pair, gaps)) for pair in pairs]


def _pairs(field: str, a: FieldColumn, b: FieldColumn, clusters: Ints | None, *, one_category: bool) -> Iterator[_Pair]:
    for metric in METRICS[a.kind]:
        if not (one_category and metric.form == "macro_f1"):
            side_a, side_b = metric.statistics([a, b])
            yield _Pair(field, metric, a, b, (side_a, side_b), clusters)


def _resampled_gaps(
    pairs: list[_Pair], n: int, clusters: Ints | None, *, seed: int, resamples: int
) -> dict[tuple[str, str], Floats]:
    """B - A on each resample [resamples], of all that is no proportion; every metric on the same resamples."""
    drawn = [pair for pair in pairs if pair.metric.form != "proportion"]
    if not drawn:
        return {}
    sides = [side for pair in drawn for side in pair.sides]
    samples = statistics.bootstrap(sides, n, seed=seed, resamples=resamples, clusters=clusters)
    gaps = samples[:, 1::2] - samples[:, ::2]
    return {(pair.field, pair.metric.name): gaps[:, i] for i, pair in enumerate(drawn)}


def _difference(pair: _Pair, gaps: dict[tuple[str, str], Floats]) -> PairedDifference | EffectiveProportion | EffectiveMean:
    a, b = pair.sides
    if pair.metric.form == "proportion":
        return judged_difference(pair.metric, pair.a, pair.b, pair.clusters)
    judged = pair.a.has_truth & pair.b.has_truth
    own = within(pair.clusters, judged)
    return PairedResamples(
        b.point() - a.point(), gaps[pair.field, pair.metric.name], int(judged.sum()), _parsed_alike(pair.a, pair.b),
        pair.metric.bounded, None if own is None else int(own.max()) + 1,
    )  # fmt: skip


def judged_difference(
    metric: Metric, a: FieldColumn, b: FieldColumn, clusters: Ints | None = None
) -> PairedProportion | PairedMean | EffectiveProportion | EffectiveMean:
    """The difference of a judged metric (see `Metric.judged`) over rows that count in both runs, to be tested.

    clusters: each row's product [n]; None where every row is one by itself.
    """
    assert metric.rows is not None
    (x, mask_a), (y, mask_b) = metric.rows(a), metric.rows(b)
    mask = mask_a & mask_b
    x, y, clusters = x[mask], y[mask], within(clusters, mask)
    if clusters is not None:
        return clustered(x, y, clusters) if metric.form == "proportion" else clustered_mean(y - x, clusters)
    if metric.form == "proportion":
        return PairedProportion(int(((x > 0) & ~(y > 0)).sum()), int((~(x > 0) & (y > 0)).sum()), len(x))
    return PairedMean.of(y - x)


def _parsed_alike(a: FieldColumn, b: FieldColumn) -> bool:
    """Whether every row was parsed to the same value in both runs."""
    numbers = a.kind in ("number", "score")
    return np.array_equal(a.status, b.status) and np.array_equal(a.predicted, b.predicted, equal_nan=numbers)


def _metric_row(pair: _Pair, difference: PairedDifference | EffectiveProportion | EffectiveMean) -> PairedMeasure:
    metric, judged = pair.metric, bool(difference.n)
    low, high = difference.interval(statistics.normal_quantile(LEVEL)) if judged else (math.nan, math.nan)
    share = difference if isinstance(difference, (PairedProportion, EffectiveProportion)) else None
    counts = [int(difference.n)] if metric.form == "macro_f1" else [side.rows for side in pair.sides]
    return PairedMeasure(
        field=pair.field,
        kind=pair.a.kind,
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        better=metric.better,
        a=finite(pair.sides[0].point()),
        b=finite(pair.sides[1].point()),
        difference=finite(difference.estimate),
        interval=(finite(low), finite(high)),
        method=difference.method,
        rows=min(counts),
        only_a=int(share.only_a) if share else None,
        only_b=int(share.only_b) if share else None,
        p_value=difference.p_value() if judged else None,
    )


def measure_both_parsed(data: PairedRuns, everything: list[PairedMeasure], *, seed: int, resamples: int) -> list[PairedMeasure]:
    """Each field's measures over the rows whose answers both parsed in that field; `everything` over all rows."""
    found: list[PairedMeasure] = []
    for name, column in data.fields_a.items():
        both = column.parsed & data.fields_b[name].parsed
        rows = everything
        if not both.all():
            rows = measure(data, np.flatnonzero(both), seed=seed, resamples=resamples, only=name)
        found += [row for row in rows if row.field == name and row.metric != "parse_failures"]
    return found


def measure_by_category(data: PairedRuns, *, seed: int, resamples: int) -> dict[str, list[PairedMeasure]]:
    """Every measure within each true category, the largest first."""
    if all(value is None for value in data.category):
        return {}
    names = np.array([NO_CATEGORY if value is None else value for value in data.category], dtype=object)
    sizes = Counter(names.tolist())
    return {
        name: measure(data, np.flatnonzero(names == name), seed=seed, resamples=resamples, one_category=True)
        for name, _ in sizes.most_common()
    }
