"""Measures that do not decide the verdict but stand guard: what gets worse behind the deciding measures is reported.

guard                            margin      test that B is worse by more than the margin
text ratio                       5 points    score (`PairedMean`)
answers that do not parse        2 points    score (Tango)
mean absolute percentage error   5 points    paired t, over rows that both parsed
price bias, mean of ln(B / A)    2 %         paired t, in either direction (with one_sided: away from zero)
the same, over prices that both  1 %         likewise; a factor on what is right hides in the spread of what is wrong
runs have within 10 %
a deciding measure, one category 10 points   score
bias of right prices, likewise   2 %         as the bias of all rows

A guard is raised where its one-sided p-value stays below 5 % after Holm's correction (1979): half of the 5 % over the guards
of all rows, half over those of the categories, so that many categories do not blunt the others. Errors of prices have heavy
tails, which a t-test takes badly where few rows differ: there the sign-flip test (Fisher 1935), which is exact where both
runs are alike, must reject equality too. Rows of one product count as one that moves together (see `products`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy

from ..runs.columns import FieldColumn, Ints
from .metrics import METRICS, Metric, get_metric, right
from .paired_measures import NO_CATEGORY, judged_difference
from .paired_runs import PairedRuns
from .products import within
from .statistics import Floats, cluster_totals, cluster_variance
from .statistics.multiplicity import holm

ALPHA = 0.05
GUARD_MARGINS = {"ratio": 0.05, "parse_failures": 0.02, "mean_ape": 0.05, "log_error": math.log(1.02)}
RIGHT_BIAS, RIGHT_BIAS_MARGIN = "right_bias", math.log(1.01)
RIGHT_BIAS_METRIC = replace(get_metric("number", "log_error"), name=RIGHT_BIAS, label="bias of right prices")
CATEGORY_MARGIN, CATEGORY_BIAS_MARGIN = 0.10, math.log(1.02)
_FEW_ROWS = 50  # up to so many rows that differ, the sign-flip test is asked too
_FLIPS = 5_000


@dataclass(frozen=True)
class Guard:
    """One guard. `difference` is B - A as a share, or ln(B / A) of a bias; so is the margin."""

    field: str
    metric: str
    label: str
    category: str | None  # of a guard of one category
    difference: float
    margin: float
    unit: Literal["points", "log"]
    rows: int
    p_value: float  # one-sided, of B worse by the margin or less
    p_adjusted: float  # after Holm, over both families together
    raised: bool


def stand_guard(data: PairedRuns, gated: Sequence[tuple[str, Metric, float]], *, one_sided: bool = False) -> list[Guard]:
    """Every guard of two runs, the raised ones first; `gated` are the deciding measures (field, metric, margin)."""
    deciding = {(name, metric.name) for name, metric, _ in gated}
    overall = [guard for guard in _overall(data, one_sided) if (guard.field, guard.metric) not in deciding]
    return adjusted(overall, list(_categories(data, gated, one_sided)))


def adjusted(*families: list[Guard]) -> list[Guard]:
    """The guards after Holm's correction within each family, the 5 % shared by the families; the raised ones first."""
    found = [
        replace(guard, p_adjusted=min(1.0, len(families) * p), raised=len(families) * p < ALPHA)
        for family in families
        for guard, p in zip(family, holm([guard.p_value for guard in family]))
    ]
    return sorted(found, key=lambda guard: not guard.raised)


def _overall(data: PairedRuns, one_sided: bool) -> Iterator[Guard]:
    clusters = data.products.clusters
    for name, a in data.fields_a.items():
        b = data.fields_b[name]
        for metric in METRICS[a.kind]:
            if metric.name not in GUARD_MARGINS:
                continue
            margin = GUARD_MARGINS[metric.name]
            if metric.judged:
                yield _bounded(name, metric, margin, a, b, clusters)
            else:
                yield _unbounded(name, metric, margin, a, b, clusters, one_sided)
            if metric.name == "log_error":
                yield _right_bias(name, RIGHT_BIAS_MARGIN, a, b, clusters, one_sided)


def _bounded(
    name: str, metric: Metric, margin: float, a: FieldColumn, b: FieldColumn, clusters: Ints | None,
    category: str | None = None,
) -> Guard:  # fmt: skip
    difference = judged_difference(metric, a, b, clusters)
    score = difference.score(-margin * metric.better) * metric.better if difference.n else 0.0
    p = float(scipy.stats.norm.cdf(score)) if difference.n else 1.0
    return Guard(
        name, metric.name, metric.label, category, difference.estimate, margin, "points", int(difference.n), p, 1.0, False
    )


def _unbounded(
    name: str, metric: Metric, margin: float, a: FieldColumn, b: FieldColumn, clusters: Ints | None, one_sided: bool,
    category: str | None = None,
) -> Guard:  # fmt: skip
    assert metric.rows is not None
    (x, mask_a), (y, mask_b) = metric.rows(a), metric.rows(b)
    mask = mask_a & mask_b
    gaps, own = (y - x)[mask], within(clusters, mask)
    mean = float(gaps.mean()) if len(gaps) else math.nan
    if metric.better:
        p = p_beyond(-metric.better * gaps, margin, own)
    elif one_sided and len(gaps) and abs(float(y[mask].mean())) <= abs(float(x[mask].mean())) + margin:
        p = 1.0  # B is hardly further from zero than A
    else:
        p = min(1.0, 2 * min(p_beyond(gaps, margin, own), p_beyond(-gaps, margin, own)))
    unit: Literal["points", "log"] = "points" if metric.unit == "share" else "log"
    return Guard(name, metric.name, metric.label, category, mean, margin, unit, len(gaps), p, 1.0, False)


def _right_bias(
    name: str, margin: float, a: FieldColumn, b: FieldColumn, clusters: Ints | None, one_sided: bool,
    category: str | None = None,
) -> Guard:  # fmt: skip
    """The bias over the prices that both runs have within 10 %."""
    both = np.flatnonzero(right(a) & right(b))
    return _unbounded(
        name, RIGHT_BIAS_METRIC, margin, a.take(both), b.take(both), within(clusters, both), one_sided, category
    )  # fmt: skip


def p_beyond(gaps: Floats, margin: float, clusters: Ints | None = None) -> float:
    """One-sided p-value of the hypothesis that the mean of `gaps` [n] is at most `margin`; 1 where there is no spread to test.

    Paired t; where few rows differ, the larger of that and of the sign-flip test of a mean of zero. clusters: each row's
    product [n], whose rows move together; None where every row is one by itself.
    """
    n, mean = len(gaps), float(gaps.mean()) if len(gaps) else 0.0
    totals = gaps if clusters is None else cluster_totals(gaps, clusters)
    if len(totals) < 2 or mean <= margin + 1e-9:
        return 1.0
    error = float(gaps.std(ddof=1)) / math.sqrt(n) if clusters is None else math.sqrt(cluster_variance(gaps, clusters))
    return cautious(float(scipy.stats.t.sf((mean - margin) / error, len(totals) - 1)) if error > 1e-12 * mean else 0.0, totals)


def cautious(p: float, totals: Floats) -> float:
    """The p-value of a t-test of `totals` [k]; where few of them differ from zero, no less than that of the sign-flip test."""
    apart = totals[totals != 0]
    return max(p, sign_flips(apart)) if p < ALPHA and len(apart) <= _FEW_ROWS else p


def sign_flips(gaps: Floats) -> float:
    """By simulation, the one-sided p-value of the hypothesis that each of `gaps` [k] could as well have the other sign."""
    generator = np.random.default_rng(0)
    signs = generator.choice([-1.0, 1.0], (_FLIPS, len(gaps)))
    return (1 + int((signs @ gaps >= gaps.sum() * (1 - 1e-12)).sum())) / (_FLIPS + 1)


def category_rows(categories: Sequence[str | None]) -> Iterator[tuple[str, Ints]]:
    """(category, its rows), for the guards on one category; none where there is one category only. categories: of each row."""
    names = np.array([NO_CATEGORY if value is None else value for value in categories], dtype=object)
    present = sorted(set(names.tolist()))
    for category in present if len(present) > 1 else ():
        yield category, np.flatnonzero(names == category)


def of_one_category(gated: Sequence[tuple[str, Metric, float]], fields: Container[str]) -> Iterator[tuple[str, Metric]]:
    """(field, measure) of the guards on one category: the deciding measures of the fields that the rows have."""
    yield from ((name, metric) for name, metric, _ in gated if name in fields and metric.better > 0)


def _categories(data: PairedRuns, gated: Sequence[tuple[str, Metric, float]], one_sided: bool) -> Iterator[Guard]:
    for category, rows in category_rows(data.category):
        clusters = within(data.products.clusters, rows)
        fields = {name: (a.take(rows), data.fields_b[name].take(rows)) for name, a in data.fields_a.items()}
        for name, metric in of_one_category(gated, fields):
            yield _bounded(name, metric, CATEGORY_MARGIN, *fields[name], clusters, category)
        for name, (a, b) in fields.items():
            if a.kind == "number":
                yield _right_bias(name, CATEGORY_BIAS_MARGIN, a, b, clusters, one_sided, category)
