"""The variance of a difference, by its sources: products (clusters of rows) and trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from .estimators import Bools, Floats

Ints = NDArray[np.int64]
# Clusters of differing rows at which the design effect they show weighs as much as the worst one there can be. Without
# it false EQUIVALENT reached 27 % in a cell of scripts/measure/simulate_seeds.py (1,000 rows, ten a cluster, 1 % discordant).
_TRUST_CLUSTERS = 10
# Normal quantiles beyond it (p = 4e-51) are not told apart: scipy's quantiles of few degrees of freedom are wrong at 20.
_FARTHEST = 15.0


@dataclass(frozen=True)
class Caution:
    """The variance of a mean over products, drawn towards that of products which move as one where few have rows that differ.

    seen: products with rows that differ. plain: the variance they show. largest: the most it can be. even: so many products
    seen at which both weigh as much.
    """

    seen: float
    plain: float
    largest: float
    even: float = _TRUST_CLUSTERS

    @property
    def variance(self) -> float:
        """The cautious variance."""
        trust = self.seen / (self.seen + self.even)
        return trust * self.plain + (1 - trust) * max(self.plain, self.largest)

    def with_rows(self, scale: float) -> Caution:
        """With `scale` times as many products."""
        return replace(self, seen=self.seen * scale, plain=self.plain / scale, largest=self.largest / scale)


@dataclass(frozen=True)
class Spread:
    """The variance of a difference by its sources.

    rows: of products, independent groups of rows, of which there are `clusters`; caution: how it was found, where few
    products differ. seeds: of `trainings` a side, 0 where seeds are no source of variation; seed_df: the degrees of freedom
    it is known by. residual: the part that both hold, of one training on one product.
    """

    rows: float
    clusters: float
    seeds: float = 0.0
    trainings: int = 1
    seed_df: float = math.inf
    residual: float = 0.0
    caution: Caution | None = None

    @property
    def total(self) -> float:
        """The variance."""
        return self.rows + self.seeds

    def quantile(self, z: float) -> float:
        """Student's quantile at the level of normal quantile z.

        Between those of the two sources, weighted by their variances (Cochran and Cox 1950). Satterthwaite's degrees of
        freedom, which trust a variance that few trainings show by chance to be small, gave up to 8.5 % false differences
        of 5 % with three trainings a side (`python scripts/measure/simulate_seeds.py seeds`).
        """
        p = scipy.special.ndtr(-z)
        rows = -float(scipy.special.stdtrit(self._rows_df, p))
        if not self.seeds:
            return rows
        share = self.seeds / self.total
        return (1 - share) * rows - share * float(scipy.special.stdtrit(self.seed_df, p))

    def normal(self, score: float) -> float:
        """The normal quantile at the level of Student's quantile `score`: the inverse of `quantile`."""
        size = abs(score)
        if not self.seeds:
            found = -float(scipy.special.ndtri(scipy.special.stdtr(self._rows_df, -size)))
        elif self.quantile(_FARTHEST) <= size:
            found = _FARTHEST
        else:
            found = float(scipy.optimize.brentq(lambda z: self.quantile(z) - size, 0.0, _FARTHEST))
        return math.copysign(found, score) if score else 0.0

    def tail(self, p: float) -> float:
        """Student's tail beyond the normal quantile that has the tail `p`."""
        return self.below(float(scipy.special.ndtri(p)))

    def below(self, score: float) -> float:
        """The chance of less than `score`, a difference over its standard error."""
        if not self.seeds:
            return float(scipy.special.stdtr(self._rows_df, score))
        return float(scipy.special.ndtr(self.normal(score)))

    def p_value(self, estimate: float) -> float:
        """Two-sided, that the true difference is zero."""
        if self.total <= 0:
            return 1.0
        return 2 * self.below(-abs(estimate) / math.sqrt(self.total))

    @property
    def _rows_df(self) -> float:
        return max(self.clusters - 1, 1.0)

    @property
    def true_share(self) -> float:
        """The share of the total that is the variance of the estimate: `rows` and `seeds` both hold the residual."""
        return 1 - min(self.residual, self.rows, self.seeds) / self.total if self.total > 0 else 1.0

    def with_rows(self, scale: float) -> Spread:
        """With `scale` times as many products."""
        caution = self.caution.with_rows(scale) if self.caution else None
        both = min(self.residual, self.seeds)
        return replace(
            self,
            rows=caution.variance if caution else self.rows / scale,
            clusters=self.clusters * scale,
            seeds=self.seeds - both + both / scale,
            residual=self.residual / scale,
            caution=caution,
        )

    def with_trainings(self, trainings: int) -> Spread:
        """With so many trainings a side."""
        df, scale = self.seed_df * (trainings - 1) / (self.trainings - 1), trainings / self.trainings
        kept = 1 - min(self.residual / self.rows, 1.0) * (1 - 1 / scale) if self.rows > 0 else 1.0
        caution = self.caution
        if caution:
            caution = replace(caution, plain=caution.plain * kept, largest=caution.largest * kept)
        return replace(
            self,
            rows=self.rows * kept,
            seeds=self.seeds / scale,
            trainings=trainings,
            seed_df=df,
            residual=self.residual / scale,
            caution=caution,
        )


def cluster_totals(values: Floats, clusters: Ints) -> Floats:
    """The sum of each cluster."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.asarray(np.bincount(index, weights=values), np.float64)


def cluster_variance(values: Floats, clusters: Ints) -> float:
    """Variance of the mean of `values`, clusters being independent (Liang and Zeger 1986, with G / (G - 1))."""
    totals = cluster_totals(values - values.mean(), clusters)
    groups = len(totals)
    return float((totals**2).sum() / len(values) ** 2 * groups / (groups - 1)) if groups > 1 else 1.0


def spread_of(values: Floats, differing: Bools, alone: float, clusters: Ints) -> Spread:
    """The spread of the mean of `values` [n] over clusters [n], cautious where few clusters have differing rows.

    alone: the variance that the mean would have if every row were a cluster.
    """
    variance = cluster_variance(values, clusters)
    sizes = np.unique(clusters, return_counts=True)[1]
    seen = len(np.unique(clusters[differing]))
    if not seen or len(sizes) == len(clusters):
        return Spread(variance, len(sizes))
    largest = alone * float((sizes.astype(np.float64) ** 2).sum()) / len(clusters)  # Kish's design effect at correlation 1
    caution = Caution(seen, variance, largest)
    return Spread(caution.variance, len(sizes), caution=caution)


def share_variance(differing: Bools) -> float:
    """The variance of a difference of shares, if every row were a cluster and all differing ones were equally likely."""
    rate = float(differing.mean())
    return rate * (1 - rate) / len(differing) if rate < 1 else 1 / len(differing)
