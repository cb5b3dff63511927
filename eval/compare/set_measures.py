"""Measures over several trainings a side: their means, and how much of a difference's spread is of products and of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runs.columns import FieldColumn, Ints
from . import statistics
from .metrics import METRICS, Metric
from .paired_measures import LEVEL, PairedMeasure
from .statistics import (
    EffectiveEstimate,
    EffectiveMean,
    EffectiveProportion,
    Floats,
    Statistic,
    finite,
    seeded,
    seeded_estimate,
    seeded_mean,
)
from .training_sets import TrainingSets

_RESAMPLES = 500  # of products: a variance is asked of them, not a tail


@dataclass(frozen=True)
class SeedSpread:
    """One deciding measure over the trainings. Shares.

    a, b: of each training. differences: of each seed where the sides are paired. deviation_*: standard deviation from
    seed to seed. error_products, error_seeds: standard error of the mean difference by its source; df: degrees of freedom of
    the second.
    """

    field: str
    metric: str
    label: str
    a: list[float]
    b: list[float]
    differences: list[float]
    deviation_a: float
    deviation_b: float
    deviation_difference: float | None
    error_products: float
    error_seeds: float
    df: float


def stacked(metric: Metric, columns: Sequence[FieldColumn], rows: Ints | None = None) -> tuple[Floats, Ints]:
    """(each training's value of each row [trainings, n], which rows count in all of them [n] as row numbers)."""
    assert metric.rows is not None
    pairs = [metric.rows(column) for column in columns]
    mask = np.logical_and.reduce([mask for _, mask in pairs])
    if rows is not None:
        mask &= np.isin(np.arange(len(mask)), rows)
    return np.stack([values for values, _ in pairs]), np.flatnonzero(mask)


def set_difference(
    metric: Metric, a: Sequence[FieldColumn], b: Sequence[FieldColumn], clusters: Ints, *, paired: bool
) -> EffectiveProportion | EffectiveMean:
    """The mean difference of a judged metric (see `Metric.judged`) over rows that have a true value.

    a, b: the field of each training. clusters: each row's product [n].
    """
    values, rows = stacked(metric, [*a, *b])
    half, own = len(a), clusters[rows]
    x, y = values[:half, rows], values[half:, rows]
    if not len(rows):
        return EffectiveProportion(0.0, 0.0, 0, statistics.Spread(0.0, 0.0, trainings=half))
    if metric.form == "proportion":
        return seeded(x, y, own, paired=paired)
    return seeded_mean(x, y, own, paired=paired)


def seed_spread(name: str, metric: Metric, sets: TrainingSets, difference: EffectiveProportion | EffectiveMean) -> SeedSpread:
    """How a deciding measure varies from seed to seed."""
    sides = []
    for side in sets.sides:
        values, rows = stacked(metric, side.column(name))
        sides.append(values[:, rows].mean(axis=1) if len(rows) else np.full(len(values), math.nan))
    a, b = sides
    gaps = b - a if sets.paired else None
    spread = difference.spread
    return SeedSpread(
        name, metric.name, metric.label, a.tolist(), b.tolist(), [] if gaps is None else gaps.tolist(),
        float(a.std(ddof=1)), float(b.std(ddof=1)), None if gaps is None else float(gaps.std(ddof=1)),
        math.sqrt(spread.rows), math.sqrt(spread.seeds), spread.seed_df,
    )  # fmt: skip


def measure_sets(sets: TrainingSets, *, seed: int, resamples: int) -> list[PairedMeasure]:
    """Every measure of every field: the mean of each side's trainings, and the interval of the difference at 95 %."""
    found = []
    for name, column in sets.fields.items():
        a, b = sets.a.column(name), sets.b.column(name)
        estimates = _estimates(a, b, sets, seed=seed, resamples=min(resamples, _RESAMPLES))
        for metric in METRICS[column.kind]:
            if metric.name in estimates:
                difference, values = estimates[metric.name]
                found.append(_row(name, column.kind, metric, difference, values, len(a)))
            else:
                judged = set_difference(metric, a, b, sets.clusters, paired=sets.paired)
                matrix, rows = stacked(metric, [*a, *b])
                found.append(_row(name, column.kind, metric, judged, _means(matrix[:, rows]), len(a)))
    return found


def _means(values: Floats) -> Floats:
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), math.nan)


def _estimates(
    a: list[FieldColumn], b: list[FieldColumn], sets: TrainingSets, *, seed: int, resamples: int
) -> dict[str, tuple[EffectiveEstimate, Floats]]:
    """The measures that are no judged ones: name -> (difference, value of each training), all from the same resamples."""
    metrics = [metric for metric in METRICS[a[0].kind] if not metric.judged]
    flat: list[Statistic] = [item for metric in metrics for item in metric.statistics([*a, *b])]
    if not flat:
        return {}
    clusters = sets.products.clusters
    samples = statistics.bootstrap(flat, len(sets.ids), seed=seed, resamples=resamples, clusters=clusters)
    found, half, width = {}, len(a), len(a) + len(b)
    for i, metric in enumerate(metrics):
        values = np.array([item.point() for item in flat[i * width : (i + 1) * width]])
        drawn = samples[:, i * width : (i + 1) * width]
        gaps = drawn[:, half:].mean(axis=1) - drawn[:, :half].mean(axis=1)
        difference = seeded_estimate(
            values[:half], values[half:], gaps, sets.clusters, paired=sets.paired, identical=_alike([*a, *b]),
            bounded=metric.bounded,
        )  # fmt: skip
        found[metric.name] = difference, values
    return found


def _alike(columns: Sequence[FieldColumn]) -> bool:
    """Whether every row was parsed to the same value in all trainings."""
    first, numbers = columns[0], columns[0].kind in ("number", "score")
    return all(
        np.array_equal(first.status, column.status) and np.array_equal(first.predicted, column.predicted, equal_nan=numbers)
        for column in columns[1:]
    )


def _row(
    name: str, kind: str, metric: Metric, difference: EffectiveEstimate | EffectiveProportion | EffectiveMean,
    values: Floats, half: int,
) -> PairedMeasure:  # fmt: skip
    judged = bool(difference.n) and np.isfinite(difference.estimate)
    low, high = difference.interval(statistics.normal_quantile(LEVEL)) if judged else (math.nan, math.nan)
    return PairedMeasure(
        field=name, kind=kind, metric=metric.name, label=metric.label, unit=metric.unit, better=metric.better,
        a=finite(values[:half].mean()), b=finite(values[half:].mean()), difference=finite(difference.estimate),
        interval=(finite(low), finite(high)), method=difference.method, rows=int(difference.n), only_a=None, only_b=None,
        p_value=difference.p_value() if judged else None,
    )  # fmt: skip
