"""Where prices are wrong: in which band of true prices, by how much money, and how far the two runs' prices are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..runs.columns import Bools, FieldColumn, Ints
from . import products, statistics
from .metrics import absolute_percentage_error, get_metric, log_error, within
from .paired_measures import LEVEL, judged_difference
from .paired_runs import PairedRuns
from .statistics import Floats, Interval, Mean, finite

_BANDS = 5
_LEAST = 5  # rows of a band


@dataclass(frozen=True)
class PriceBand:
    """Rows whose true price is in [low, high]. Shares are 0 to 1, differences B - A, the interval at 95 %."""

    low: float
    high: float
    rows: int
    within_10_a: float
    within_10_b: float
    difference: float
    interval: Interval
    median_error_a: float | None  # percentage errors over parsed rows
    median_error_b: float | None
    bias_a: float | None  # of the geometric mean of predicted / true, minus 1
    bias_b: float | None


@dataclass(frozen=True)
class Money:
    """Errors weighted by price, over the rows that both runs parsed: shares of the true total; differences B - A, at 95 %.

    error: the sum of |predicted - true|. bias: the sum of predicted - true.
    """

    rows: int
    total: float
    error_a: float
    error_b: float
    error_difference: float
    error_interval: tuple[float | None, float | None]
    bias_a: float
    bias_b: float
    bias_difference: float
    bias_interval: tuple[float | None, float | None]


@dataclass(frozen=True)
class PriceErrors:
    """One price field. `equal` and `near` are shares of `both`, the rows that both runs parsed: same price, within 10 %."""

    field: str
    currency: str | None
    bands: list[PriceBand]
    money: Money | None
    both: int
    equal: float | None
    near: float | None


def price_errors(data: PairedRuns, *, seed: int, resamples: int) -> list[PriceErrors]:
    """Every price field of two runs."""
    currencies = {item.name: item.currency for item in data.run_a.task.fields}
    found = []
    for name, a in data.fields_a.items():
        if a.kind == "number":
            b = data.fields_b[name]
            both = a.parsed & b.parsed
            apart = np.abs(_floats(b.predicted) - _floats(a.predicted))[both]
            near = apart <= 0.1 * np.abs(_floats(a.predicted))[both]
            shares = (float((apart == 0).mean()), float(near.mean())) if both.any() else (None, None)
            money = _money(a, b, data.products.clusters, seed=seed, resamples=resamples)
            found.append(
                PriceErrors(
                    name, currencies.get(name), list(_bands(a, b, data.products.clusters)), money, int(both.sum()), *shares
                )
            )
    return found


def _bands(a: FieldColumn, b: FieldColumn, clusters: Ints | None) -> Iterator[PriceBand]:
    """Up to five bands with as many rows each, by the true price; rows of one price are in one band."""
    true = _floats(a.true)
    judged = a.has_truth & b.has_truth
    if judged.sum() < 2 * _LEAST:
        return
    highest = np.unique(np.quantile(true[judged], np.arange(1, _BANDS + 1) / _BANDS, method="inverted_cdf"))
    place = np.where(judged, np.searchsorted(highest, true), -1)
    for number in range(len(highest)):
        rows = np.flatnonzero(place == number)
        if len(rows):
            yield _band(a.take(rows), b.take(rows), products.within(clusters, rows))


def _band(a: FieldColumn, b: FieldColumn, clusters: Ints | None) -> PriceBand:
    difference = judged_difference(get_metric("number", "within_10"), a, b, clusters)
    share_a, share_b = (float(within(column, 10)[0].mean()) for column in (a, b))
    error_a, error_b = (_middle(*absolute_percentage_error(column)) for column in (a, b))
    bias_a, bias_b = (_bias(*log_error(column)) for column in (a, b))
    true = _floats(a.true)
    return PriceBand(
        float(true.min()), float(true.max()), len(true), share_a, share_b, difference.estimate,
        difference.interval(statistics.normal_quantile(LEVEL)), error_a, error_b, bias_a, bias_b,
    )  # fmt: skip


def _middle(values: Floats, mask: Bools) -> float | None:
    return float(np.median(values[mask])) if mask.any() else None


def _bias(values: Floats, mask: Bools) -> float | None:
    return math.expm1(float(values[mask].mean())) if mask.any() else None


def _money(a: FieldColumn, b: FieldColumn, clusters: Ints | None, *, seed: int, resamples: int) -> Money | None:
    """None where no row counts, or the true prices have no positive total."""
    mask = a.has_truth & b.has_truth & a.parsed & b.parsed
    true = np.where(mask, _floats(a.true), 0.0)
    total = float(true.sum())
    if total <= 0:
        return None
    gaps = [np.where(mask, _floats(column.predicted) - _floats(a.true), 0.0) for column in (a, b)]
    columns = [np.abs(gaps[0]), np.abs(gaps[1]), *gaps, true]
    means: list[statistics.Statistic] = [Mean(column, mask) for column in columns]
    samples = statistics.bootstrap(means, len(true), seed=seed, resamples=resamples, clusters=clusters)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = samples[:, :4] / samples[:, 4:]
    error_a, error_b, bias_a, bias_b = (float(column.sum()) / total for column in columns[:4])
    intervals = [statistics.percentile_interval(shares[:, i + 1] - shares[:, i], LEVEL) for i in (0, 2)]
    error, bias = ((finite(low), finite(high)) for low, high in intervals)
    return Money(
        int(mask.sum()), total, error_a, error_b, error_b - error_a, error, bias_a, bias_b, bias_b - bias_a, bias
    )  # fmt: skip


def _floats(values: Floats) -> Floats:
    return values.astype(np.float64)
