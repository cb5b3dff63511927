"""Intervals and tests for two systems measured on the same products.

All intervals are on B minus A. Sources:
- Wilson (1927) interval for one proportion, by scipy;
- Tango (1998), Statistics in Medicine 17:891-908: score interval for a difference of paired proportions. It agrees
  with McNemar's test, keeps its coverage near 0 and 1, and where nothing differs it is a Wilson interval of
  the discordant share: never of width zero, never NaN;
- McNemar (1947), exact form: a binomial test on the discordant rows, by scipy;
- Efron's percentile bootstrap over products (both systems' answers to one product move together);
- Schuirmann (1987), two one-sided tests at level alpha: the 1 - 2 alpha interval inside the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

_CHUNK_WEIGHTS = 4_000_000  # resample weights held at once: 32 MB


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Interval for a proportion; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that A and B are right equally often; 1 where no row is discordant."""
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def tango(only_a: float, only_b: float, n: float, z: float) -> Interval:
    """Score interval for P(B right) - P(A right).

    Args:
        only_a, only_b: products only A, only B has right (the discordant counts).
        n: all products, concordant ones too.
        z: normal quantile, 1.96 for 95 %.
    Returns (-1, 1) where n is 0.
    """
    if n == 0:
        return -1.0, 1.0
    estimate = (only_b - only_a) / n

    def score(delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta` (Tango's equation 4)."""
        # The constrained estimate of P(only A right) solves 2n x^2 + p x + q = 0.
        p = -only_a - only_b + (2 * n - only_b + only_a) * delta
        q = -only_a * delta * (1 - delta)
        constrained = (math.sqrt(max(p * p - 8 * n * q, 0.0)) - p) / (4 * n)
        variance = n * (2 * constrained + delta * (1 - delta))
        gap = only_b - only_a - n * delta
        return gap / math.sqrt(variance) if variance > 1e-300 else math.copysign(math.inf, gap) if gap else 0.0

    # The score falls as delta grows: z at the lower limit, -z at the upper.
    low = _bisect(lambda delta: score(delta) > z, -1.0, estimate)
    high = _bisect(lambda delta: score(delta) > -z, estimate, 1.0)
    return low, high


def _bisect(below: Callable[[float], bool], low: float, high: float) -> float:
    """The point in [low, high] where `below` turns from true to false."""
    for _ in range(45):  # 2 / 2**45 is below any figure shown
        middle = (low + high) / 2
        if below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def normal_quantile(level: float) -> float:
    """z of a two-sided interval: 1.96 for 0.95."""
    return float(stats.norm.ppf((1 + level) / 2))


@dataclass(frozen=True)
class Mean:
    """Mean of `values` where `mask`; both [n]."""

    values: Floats
    mask: Bools

    def point(self) -> float:
        """The statistic on the data; NaN where no row counts."""
        return float(self.values[self.mask].mean()) if self.mask.any() else math.nan


@dataclass(frozen=True)
class Median:
    """Median of `values` where `mask`; both [n]."""

    values: Floats
    mask: Bools

    def point(self) -> float:
        """The statistic on the data; NaN where no row counts."""
        return float(np.median(self.values[self.mask])) if self.mask.any() else math.nan

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        kept = np.flatnonzero(self.mask)
        return kept[np.argsort(self.values[kept], kind="stable")]

    def resampled(self, weights: Floats) -> Floats:
        """Weighted medians; weights [r, n] -> [r].

        The weight below a rank has a standard deviation of at most sqrt(n) / 2, so a window of 8 sqrt(n) ranks around
        the middle holds the median of all but freak resamples; where it does not, all ranks are taken.
        """
        order = self._order
        if not len(order):
            return np.full(len(weights), math.nan)
        half = (weights @ self.mask.astype(np.float64))[:, None] / 2
        reach = int(4 * math.sqrt(len(order))) + 1
        start, stop = max(0, len(order) // 2 - reach), min(len(order), len(order) // 2 + reach)
        medians, sure = self._within(weights, half, start, stop)
        if not sure:
            medians, _ = self._within(weights, half, 0, len(order))
        return np.where(half[:, 0] > 0, medians, math.nan)

    def _within(self, weights: Floats, half: Floats, start: int, stop: int) -> tuple[Floats, bool]:
        """(medians, whether all lie among the ranks [start, stop))."""
        below = np.zeros(len(self.values))
        below[self._order[:start]] = 1.0
        window = self._order[start:stop]
        ranked = self.values[window]
        begin = (weights @ below)[:, None]
        reached = begin + np.cumsum(weights[:, window], axis=1)
        lower = (reached >= half).argmax(axis=1)
        upper = (reached > half).argmax(axis=1)
        sure = bool((begin < half).all() and (reached[:, -1:] > half).all()) or (start == 0 and stop == len(self._order))
        return np.asarray((ranked[lower] + ranked[upper]) / 2), sure


@dataclass(frozen=True)
class MacroF1:
    """Mean F1 over the classes that stand in the truth.

    `true` and `predicted` are class codes [n]; -1 is no class (no truth: the row is left out; no prediction: wrong).
    A class predicted but never true costs its rows their recall and is not averaged in.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    classes: int

    @cached_property
    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(each row's cell of the confusion matrix [n], the cells' codes [k])."""
        codes = np.where(self.true < 0, -1, self.true * (self.classes + 1) + self.predicted + 1)
        cells, rows = np.unique(codes, return_inverse=True)
        return rows, cells

    def point(self) -> float:
        """The statistic on the data; NaN where no row has truth."""
        return float(self.resampled(np.ones((1, len(self.true))))[0])

    def resampled(self, weights: Floats) -> Floats:
        """Macro-F1 of each resample; weights [r, n] -> [r]."""
        rows, cells = self._cells
        counts = np.stack([np.bincount(rows, weights=line, minlength=len(cells)) for line in weights])  # [r, k]
        true, predicted = cells // (self.classes + 1), cells % (self.classes + 1) - 1
        judged = cells >= 0
        classes = np.arange(self.classes)
        is_true = ((true[:, None] == classes) & judged[:, None]).astype(np.float64)  # [k, classes]
        is_predicted = ((predicted[:, None] == classes) & judged[:, None]).astype(np.float64)
        support, answered, hits = counts @ is_true, counts @ is_predicted, counts @ (is_true * is_predicted)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(support > 0, 2 * hits / (support + answered), 0.0)
            return np.asarray(f1.sum(axis=1) / (support > 0).sum(axis=1))


Statistic = Mean | Median | MacroF1


def resample_weights(n: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each product is drawn, in chunks [r, n] of in all `resamples` rows."""
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, _CHUNK_WEIGHTS // max(n, 1)))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # Row by row: the counts of one resample stay in the cache.
        yield np.stack([np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(size)]).astype(np.float64)


def bootstrap(statistics: list[Statistic], n: int, *, seed: int, resamples: int) -> Floats:
    """Every statistic on the same resamples of n products: [resamples, len(statistics)].

    Statistics of the same resample may be subtracted: that is what pairs them.
    """
    results = np.full((resamples, len(statistics)), math.nan)
    if n == 0:
        return results
    means = [i for i, item in enumerate(statistics) if isinstance(item, Mean)]
    others = [(i, item) for i, item in enumerate(statistics) if not isinstance(item, Mean)]
    picked = [item for item in statistics if isinstance(item, Mean)]
    # One product for all means: the weights are read once.
    columns = [np.where(item.mask, item.values, 0.0) for item in picked] + [item.mask.astype(np.float64) for item in picked]
    matrix = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
    start = 0
    for weights in resample_weights(n, seed, resamples):
        rows = slice(start, start + len(weights))
        sums = weights @ matrix
        with np.errstate(invalid="ignore", divide="ignore"):
            results[rows, means] = sums[:, : len(picked)] / sums[:, len(picked) :]
        for i, item in others:
            results[rows, i] = item.resampled(weights)
        start += len(weights)
    return results


def percentile_interval(samples: Floats, level: float) -> Interval:
    """The central `level` of bootstrap samples; NaN samples (an empty resample) are left out."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedProportion:
    """Difference of two paired proportions, from the discordant counts (see `tango`, `mcnemar`)."""

    only_a: float
    only_b: float
    n: float
    method = "score"

    @property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""
        return (self.only_b - self.only_a) / self.n if self.n else math.nan

    def interval(self, z: float) -> Interval:
        """Score interval at normal quantile z."""
        return tango(self.only_a, self.only_b, self.n, z)

    def differs(self, alpha: float) -> bool:
        """Whether the exact McNemar test rejects equality at `alpha`."""
        return self.p_value() < alpha

    def p_value(self) -> float:
        """Exact McNemar p-value."""
        return mcnemar(round(self.only_a), round(self.only_b))

    def at(self, n: int) -> PairedProportion:
        """The same rates on n products."""
        scale = n / self.n
        return PairedProportion(self.only_a * scale, self.only_b * scale, n)


@dataclass(frozen=True)
class PairedResamples:
    """Difference of two statistics, from paired bootstrap samples [resamples].

    Where no row differs (`identical`) the samples are all zero and say nothing of rows not seen: for a measure in
    [0, 1] the interval is then that of a share of differing rows (`tango` with no discordance).
    """

    estimate: float
    samples: Floats
    n: int
    identical: bool
    bounded: bool

    @property
    def method(self) -> str:
        """How the interval is made: "bootstrap", or "score" where no row differs."""
        return "score" if self.identical and self.bounded else "bootstrap"

    def interval(self, z: float) -> Interval:
        """Percentile interval at the level of normal quantile z."""
        if self.identical:
            return tango(0, 0, self.n, z) if self.bounded else (0.0, 0.0)
        return percentile_interval(self.samples, float(2 * stats.norm.cdf(z) - 1))

    def differs(self, alpha: float) -> bool:
        """Whether the 1 - alpha interval leaves out zero."""
        low, high = self.interval(normal_quantile(1 - alpha))
        return low > 0 or high < 0

    def p_value(self) -> float | None:
        """None: the bootstrap interval is the test."""
        return None

    def at(self, n: int) -> PairedResamples:
        """The same spread on n products: the samples drawn in towards the estimate by sqrt(n)."""
        scale = math.sqrt(self.n / n)
        return PairedResamples(
            self.estimate, self.estimate + (self.samples - self.estimate) * scale, n, self.identical, self.bounded
        )


PairedDifference = PairedProportion | PairedResamples
