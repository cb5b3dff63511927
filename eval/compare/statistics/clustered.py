"""Two systems on rows that come in clusters, such as several photos of one product."""

from __future__ import annotations

import numpy as np
import scipy

from .bounded_mean import PairedMean
from .effective import EffectiveMean, EffectiveProportion
from .estimators import Floats
from .proportions import mcnemar
from .spread import Ints, cluster_totals, share_variance, spread_of


def clustered(a: Floats, b: Floats, clusters: Ints) -> EffectiveProportion:
    """The difference of two systems on rows of which those with the same number in `clusters` belong together.

    a, b: 1 where the row is right, else 0 [n]; clusters: [n]. Equality is tested exactly, by turning the signs of whole
    clusters (`sign_flip`); with one row a cluster that is the exact McNemar test.
    """
    gap = b - a
    only_a, only_b = float((gap < 0).sum()), float((gap > 0).sum())
    p_value = sign_flip(cluster_totals(gap, clusters).astype(np.int64))
    spread = spread_of(gap, gap != 0, share_variance(gap != 0), clusters)
    return EffectiveProportion(only_a, only_b, len(gap), spread, p_value)


def clustered_mean(gap: Floats, clusters: Ints) -> EffectiveMean:
    """The mean of B minus A in [-1, 1] on clustered rows: `gap` and `clusters` are [n]."""
    return EffectiveMean(PairedMean.of(gap), spread_of(gap, gap != 0, float(gap.var()) / len(gap), clusters))


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
    for weight, count in zip(*(item.tolist() for item in np.unique(weights, return_counts=True))):
        of_weight = np.zeros(weight * count + 1)
        of_weight[::weight] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = scipy.signal.convolve(chances, of_weight)  # by FFT where that is faster
    sums = 2 * np.arange(len(chances)) - int(weights.sum())
    return min(1.0, max(0.0, float(chances[np.abs(sums) >= observed].sum())))
