"""A difference of paired shares whose rows are not independent, or come from several trainings: as of fewer rows.

Rows of one product (a cluster) move together, and trainings with other seeds differ. Both widen the variance of the
difference, V. The score interval of Tango (1998) is then taken at the effective number of rows: at which independent rows
would have the variance V, a design effect (Kish 1965; Rao and Scott 1992), with Student's quantile for what V is known by.
So it keeps what Tango's interval is used for: it stays in [-1, 1] and has a width where no row is discordant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .estimators import Floats
from .proportions import Interval, mcnemar, tango

Ints = NDArray[np.int64]
# Clusters of discordant rows at which the design effect they show weighs as much as the worst one there can be. Without
# it false EQUIVALENT reached 27 % in a cell of scripts/measure/simulate_seeds.py (1,000 rows, ten a cluster, 1 % discordant).
_TRUST_CLUSTERS = 10


@dataclass(frozen=True)
class Spread:
    """The variance of a difference by its sources.

    rows: of products, independent groups of rows, of which there are `clusters`. seeds: of `trainings` a side, 0 where
    seeds are no source of variation; seed_df: the degrees of freedom it is known by.
    """

    rows: float
    clusters: float
    seeds: float = 0.0
    trainings: int = 1
    seed_df: float = math.inf

    @property
    def total(self) -> float:
        """The variance."""
        return self.rows + self.seeds

    @property
    def df(self) -> float:
        """Degrees of freedom of the total (Satterthwaite 1946)."""
        rows_df = max(self.clusters - 1, 1.0)
        if not self.seeds:
            return rows_df
        parts = self.rows**2 / rows_df + self.seeds**2 / self.seed_df
        return max(min(self.total**2 / parts, rows_df + self.seed_df), 1.0)

    def quantile(self, z: float) -> float:
        """Student's quantile at the level of normal quantile z."""
        return float(stats.t.ppf(stats.norm.cdf(z), self.df))

    def p_value(self, estimate: float) -> float:
        """Two-sided, that the true difference is zero."""
        return float(2 * stats.t.sf(abs(estimate) / math.sqrt(self.total), self.df)) if self.total > 0 else 1.0

    def with_rows(self, scale: float) -> Spread:
        """With `scale` times as many products."""
        return replace(self, rows=self.rows / scale, clusters=self.clusters * scale)

    def with_trainings(self, trainings: int) -> Spread:
        """With so many trainings a side."""
        df = self.seed_df * (trainings - 1) / (self.trainings - 1)
        return replace(self, seeds=self.seeds * self.trainings / trainings, trainings=trainings, seed_df=df)


@dataclass(frozen=True)
class EffectiveProportion:
    """Difference of two paired shares, B minus A, of known spread.

    only_a, only_b: discordant rows, averaged over the trainings. n: rows. exact_p: p-value of equality by another test
    than the interval's, None where there is none.
    """

    only_a: float
    only_b: float
    n: float
    spread: Spread
    exact_p: float | None = None
    method = "score"

    @property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""
        return (self.only_b - self.only_a) / self.n if self.n else math.nan

    @property
    def effective_rows(self) -> float:
        """How many independent rows of one training would tell as much; the clusters where nothing differs."""
        variance = (self.only_a + self.only_b) / self.n - self.estimate**2  # of one row
        return variance / self.spread.total if self.spread.total > 0 and variance > 0 else self.spread.clusters

    def interval(self, z: float) -> Interval:
        """Score interval at the level of normal quantile z."""
        if not self.n:
            return -1.0, 1.0
        scale = self.effective_rows / self.n
        return tango(self.only_a * scale, self.only_b * scale, self.effective_rows, self.spread.quantile(z))

    def p_value(self) -> float:
        """Two-sided, that A and B are right equally often."""
        return self.spread.p_value(self.estimate) if self.exact_p is None else self.exact_p

    def differs(self, alpha: float) -> bool:
        """Whether equality is rejected at `alpha`, by the test and, where that is not exact, by the interval too."""
        if self.p_value() >= alpha:
            return False
        low, high = self.interval(float(stats.norm.ppf(1 - alpha / 2)))
        return self.exact_p is not None or low > 0 or high < 0

    def at(self, n: int) -> EffectiveProportion:
        """The same rates on n rows of the same kind and as many trainings."""
        scale = n / self.n
        return EffectiveProportion(self.only_a * scale, self.only_b * scale, n, self.spread.with_rows(scale))

    def with_trainings(self, trainings: int) -> EffectiveProportion:
        """The same rates from so many trainings a side."""
        return replace(self, spread=self.spread.with_trainings(trainings))


@dataclass(frozen=True)
class EffectiveEstimate:
    """Difference of two statistics that are no shares, B minus A, of known spread, on n rows.

    Where no row differs (`identical`) the spread is zero and says nothing of rows not seen: for a measure in [0, 1] the
    interval is then that of a share of differing rows (`tango` with no discordance).
    """

    estimate: float
    n: int
    spread: Spread
    identical: bool = False
    bounded: bool = False
    method = "student"

    def interval(self, z: float) -> Interval:
        """Student's interval at the level of normal quantile z."""
        if self.identical and self.bounded:
            return tango(0, 0, self.spread.clusters, z)
        reach = self.spread.quantile(z) * math.sqrt(self.spread.total)
        return self.estimate - reach, self.estimate + reach

    def p_value(self) -> float:
        """Two-sided, that both are equal."""
        return self.spread.p_value(self.estimate)

    def differs(self, alpha: float) -> bool:
        """Whether equality is rejected at `alpha`."""
        return self.p_value() < alpha

    def at(self, n: int) -> EffectiveEstimate:
        """The same spread of a row on n rows."""
        return replace(self, n=n, spread=self.spread.with_rows(n / self.n))

    def with_trainings(self, trainings: int) -> EffectiveEstimate:
        """The same spread of a training from so many a side."""
        return replace(self, spread=self.spread.with_trainings(trainings))


def clustered(a: Floats, b: Floats, clusters: Ints) -> EffectiveProportion:
    """The difference of two systems on rows of which those with the same number in `clusters` belong together.

    a, b: 1 where the row is right, else 0 [n]; clusters: [n]. Equality is tested exactly, by turning the signs of whole
    clusters (`sign_flip`); with one row a cluster that is the exact McNemar test.
    """
    gap = b - a
    only_a, only_b = float((gap < 0).sum()), float((gap > 0).sum())
    totals = _totals(gap, clusters)
    p_value = sign_flip(totals.astype(np.int64))
    variance = _cluster_variance(gap, clusters)
    if len(totals) < len(gap):
        variance = _cautious(variance, gap != 0, clusters)
    return EffectiveProportion(only_a, only_b, len(gap), Spread(variance, len(totals)), p_value)


def seeded(a: Floats, b: Floats, clusters: Ints, *, paired: bool) -> EffectiveProportion:
    """The mean difference of several trainings a side, with seeds and products as sources of variation.

    a, b: 1 where a training's answer is right, else 0 [trainings, n]; clusters: [n]. paired: training k of both sides
    has the same seed; else the sides are independent and may have other numbers of trainings.

    Crossed random effects: variance of the products' mean differences over products plus that of the trainings' mean
    differences over trainings. Each holds the residual once, so the sum is cautious, and a sum of independent mean
    squares, as Satterthwaite's degrees of freedom ask for. A paired t over seeds alone leaves out the products that
    all trainings of one side get wrong: it called equal pipelines different in more than half of the
    comparisons of 12 trainings (`python scripts/measure/simulate_seeds.py seeds`).
    """
    if paired:
        only_a, only_b = (a > b).mean(axis=0), (b > a).mean(axis=0)
    else:
        share_a, share_b = a.mean(axis=0), b.mean(axis=0)
        only_a, only_b = share_a * (1 - share_b), share_b * (1 - share_a)
    variance = _cluster_variance(only_b - only_a, clusters)
    groups = len(np.unique(clusters))
    if groups < len(clusters):
        variance = _cautious(variance, only_a + only_b > 0, clusters)
    spread = _over_seeds(a.mean(axis=1), b.mean(axis=1), variance, groups, paired=paired)
    return EffectiveProportion(float(only_a.sum()), float(only_b.sum()), len(clusters), spread)


def seeded_estimate(
    a: Floats, b: Floats, resampled: Floats, clusters: Ints, *, paired: bool, identical: bool, bounded: bool
) -> EffectiveEstimate:
    """The mean difference of a statistic that is no share, over several trainings a side.

    a, b: the statistic of each training [trainings]; resampled: the difference of the sides' means on bootstrap samples
    of the products [resamples]; clusters: [n].
    """
    present = resampled[np.isfinite(resampled)]
    rows = float(present.var(ddof=1)) if len(present) > 1 else 0.0
    spread = _over_seeds(a, b, rows, len(np.unique(clusters)), paired=paired)
    return EffectiveEstimate(float(b.mean() - a.mean()), len(clusters), spread, identical, bounded)


def _over_seeds(a: Floats, b: Floats, rows: float, groups: int, *, paired: bool) -> Spread:
    """The spread from each training's own value [trainings] a side, and the products' share of the variance."""
    if paired:
        return Spread(rows, groups, float((b - a).var(ddof=1)) / len(a), len(a), len(a) - 1.0)
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1.0) for side in (a, b)]
    seeds = sum(part for part, _ in parts)
    below = sum(part**2 / df for part, df in parts)  # Welch 1947
    df = seeds**2 / below if below > 0 else min(df for _, df in parts)
    return Spread(rows, groups, seeds, min(len(a), len(b)), df)


def sign_flip(totals: Ints) -> float:
    """Exact two-sided p-value that clusters' sums [clusters] of B minus A are as often above as below zero.

    Under equality each cluster's sum would as soon have the other sign. The distribution of their sum over all signs is
    counted out; chances below 1e-15 are lost to rounding.
    """
    weights = np.abs(totals[totals != 0])
    observed = abs(int(totals.sum()))
    if not len(weights):
        return 1.0
    if (weights == 1).all():
        return mcnemar(int((totals < 0).sum()), int((totals > 0).sum()))
    chances = np.ones(1)  # of the sum of weights whose sign is plus
    for weight in weights.tolist():
        wider = np.zeros(len(chances) + weight)
        wider[: len(chances)] += 0.5 * chances
        wider[weight:] += 0.5 * chances
        chances = wider
    sums = 2 * np.arange(len(chances)) - int(weights.sum())
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def _totals(values: Floats, clusters: Ints) -> Floats:
    """The sum of each cluster."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.asarray(np.bincount(index, weights=values), np.float64)


def _cluster_variance(values: Floats, clusters: Ints) -> float:
    """Variance of the mean of `values`, clusters being independent (Liang and Zeger 1986, with G / (G - 1))."""
    totals = _totals(values - values.mean(), clusters)
    groups = len(totals)
    return float((totals**2).sum() / len(values) ** 2 * groups / (groups - 1)) if groups > 1 else 1.0


def _cautious(variance: float, discordant: NDArray[np.bool_], clusters: Ints) -> float:
    """The variance, drawn towards that of clusters which move as one where few clusters have discordant rows."""
    seen = len(np.unique(clusters[discordant]))
    if not seen:
        return variance
    n, sizes = len(clusters), np.unique(clusters, return_counts=True)[1]
    rate = float(discordant.mean())
    alone = rate * (1 - rate) / n if rate < 1 else 1 / n
    largest = alone * float((sizes.astype(np.float64) ** 2).sum()) / n  # Kish's design effect at correlation 1
    trust = seen / (seen + _TRUST_CLUSTERS)
    return trust * variance + (1 - trust) * max(variance, largest)
