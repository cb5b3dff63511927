"""The guards (see `guards`) over several trainings a side: seeds and products are both sources of variation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import scipy

from ..runs.columns import Ints
from .guards import (
    CATEGORY_BIAS_MARGIN,
    CATEGORY_MARGIN,
    GUARD_MARGINS,
    RIGHT_BIAS_MARGIN,
    RIGHT_BIAS_METRIC,
    Guard,
    adjusted,
    category_rows,
    cautious,
    of_one_category,
)
from .metrics import METRICS, Metric, right
from .set_measures import set_difference, stacked
from .statistics import EffectiveEstimate, Floats, cluster_totals, seeded_difference
from .training_sets import TrainingSets


def stand_guard_of_sets(sets: TrainingSets, gated: Sequence[tuple[str, Metric, float]], *, one_sided: bool) -> list[Guard]:
    """Every guard of two sides, the raised ones first; `gated` are the deciding measures (field, metric, margin)."""
    deciding = {(name, metric.name) for name, metric, _ in gated}
    overall = [guard for guard in _overall(sets, one_sided) if (guard.field, guard.metric) not in deciding]
    return adjusted(overall, list(_categories(sets, gated, one_sided)))


def _overall(sets: TrainingSets, one_sided: bool) -> Iterator[Guard]:
    every = np.arange(len(sets.ids))
    for name, column in sets.fields.items():
        for metric in METRICS[column.kind]:
            if metric.name not in GUARD_MARGINS:
                continue
            margin = GUARD_MARGINS[metric.name]
            if metric.judged:
                yield _bounded(sets, name, metric, margin, every)
            else:
                yield _unbounded(sets, name, metric, margin, every, one_sided)
            if metric.name == "log_error":
                yield _right_bias(sets, name, RIGHT_BIAS_MARGIN, every, one_sided)


def _bounded(
    sets: TrainingSets, name: str, metric: Metric, margin: float, rows: Ints, category: str | None = None
) -> Guard:  # fmt: skip
    a, b = ([column.take(rows) for column in side.column(name)] for side in sets.sides)
    difference = set_difference(metric, a, b, sets.clusters[rows], paired=sets.paired)
    score = difference.score(-margin * metric.better) * metric.better if difference.n else 0.0
    p = float(scipy.stats.norm.cdf(score)) if difference.n else 1.0
    return Guard(
        name, metric.name, metric.label, category, difference.estimate, margin, "points", int(difference.n), p, 1.0, False
    )


def _right_bias(
    sets: TrainingSets, name: str, margin: float, rows: Ints, one_sided: bool, category: str | None = None
) -> Guard:  # fmt: skip
    """The bias over the prices of these rows that all trainings have within 10 %."""
    every = np.logical_and.reduce([right(column.take(rows)) for side in sets.sides for column in side.column(name)])
    return _unbounded(sets, name, RIGHT_BIAS_METRIC, margin, rows[every], one_sided, category)


def _unbounded(
    sets: TrainingSets, name: str, metric: Metric, margin: float, rows: Ints, one_sided: bool, category: str | None = None
) -> Guard:  # fmt: skip
    values, counted = stacked(metric, [*sets.a.column(name), *sets.b.column(name)], rows)
    a, b = np.split(values[:, counted], [len(sets.a.trainings)])
    clusters = sets.clusters[counted]
    unit: Literal["points", "log"] = "points" if metric.unit == "share" else "log"
    if len(np.unique(clusters)) < 2:
        return Guard(name, metric.name, metric.label, category, math.nan, margin, unit, len(counted), 1.0, 1.0, False)
    found = seeded_difference(a, b, clusters, paired=sets.paired)
    gaps = b.mean(axis=0) - a.mean(axis=0)
    if metric.better:
        p = _beyond(found, gaps, clusters, margin, -metric.better)
    elif one_sided and abs(float(b.mean())) <= abs(float(a.mean())) + margin:
        p = 1.0  # B is hardly further from zero than A
    else:
        p = min(1.0, 2 * min(_beyond(found, gaps, clusters, margin, sign) for sign in (1, -1)))
    return Guard(name, metric.name, metric.label, category, found.estimate, margin, unit, len(counted), p, 1.0, False)


def _beyond(found: EffectiveEstimate, gaps: Floats, clusters: Ints, margin: float, sign: int) -> float:
    """One-sided p-value that the difference, times `sign`, is at most the margin; see `guards.p_beyond`."""
    p = replace(found, estimate=sign * found.estimate).above(margin)
    return cautious(p, cluster_totals(sign * gaps, clusters))


def _categories(sets: TrainingSets, gated: Sequence[tuple[str, Metric, float]], one_sided: bool) -> Iterator[Guard]:
    for category, rows in category_rows(sets.category):
        for name, metric in of_one_category(gated, sets.fields):
            yield _bounded(sets, name, metric, CATEGORY_MARGIN, rows, category)
        for name, column in sets.fields.items():
            if column.kind == "number":
                yield _right_bias(sets, name, CATEGORY_BIAS_MARGIN, rows, one_sided, category)
