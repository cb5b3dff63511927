"""The mean difference of several trainings a side, with seeds and products as sources of variation.

Crossed random effects: the variance of the products' mean differences over products plus that of the trainings' mean
differences over trainings. Each holds the residual once, so the sum is cautious. A paired t over seeds alone leaves out the
products that all trainings of one side get wrong: it called equal pipelines different in more than half of the comparisons
of 12 trainings (`python scripts/measure/simulate_seeds.py seeds`).

In all functions `clusters` is the product of each row [n]. paired: training k of both sides has the same seed; else the
sides are independent and may have other numbers of trainings, at least two.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from .bounded_mean import PairedMean
from .effective import EffectiveEstimate, EffectiveMean, EffectiveProportion
from .estimators import Floats
from .spread import Caution, Ints, Spread, cluster_variance, share_variance, spread_of

TRUST_PRODUCTS = 1  # discordant products of a training at which what all show weighs as much as what one shows


def seeded(a: Floats, b: Floats, clusters: Ints, *, paired: bool) -> EffectiveProportion:
    """The difference of two shares. a, b: 1 where a training's answer is right, else 0 [trainings, n]."""
    if paired:
        only_a, only_b = (a > b).mean(axis=0), (b > a).mean(axis=0)
    else:
        share_a, share_b = a.mean(axis=0), b.mean(axis=0)
        only_a, only_b = share_a * (1 - share_b), share_b * (1 - share_a)
    differing = only_a + only_b > 0
    rows = spread_of(only_b - only_a, differing, share_variance(differing), clusters)
    if paired and not rows.caution:
        rows = _cautious(rows, b - a, float((only_a + only_b).sum()))
    spread = _over_seeds(a.mean(axis=1), b.mean(axis=1), rows, paired=paired)
    spread = replace(spread, residual=_residual(a, b, clusters, paired=paired))
    return EffectiveProportion(float(only_a.sum()), float(only_b.sum()), len(clusters), spread)


def seeded_mean(a: Floats, b: Floats, clusters: Ints, *, paired: bool) -> EffectiveMean:
    """The difference of two means of values in [0, 1]. a, b: each training's values [trainings, n]."""
    pairs = list(zip(a, b)) if paired else list(itertools.product(a, b))
    gaps = [PairedMean.of(y - x) for x, y in pairs]
    values, place = np.unique(np.concatenate([gap.values for gap in gaps]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([gap.counts for gap in gaps])) / len(pairs)
    mean = b.mean(axis=0) - a.mean(axis=0)
    differing = (a != a[0]).any(axis=0) | (b != a[0]).any(axis=0)
    rows = spread_of(mean, differing, float(mean.var()) / len(mean), clusters)
    spread = _over_seeds(a.mean(axis=1), b.mean(axis=1), rows, paired=paired)
    spread = replace(spread, residual=_residual(a, b, clusters, paired=paired))
    return EffectiveMean(PairedMean(values, counts), spread)


def seeded_difference(a: Floats, b: Floats, clusters: Ints, *, paired: bool) -> EffectiveEstimate:
    """The difference of two means without a bound. a, b: each training's values [trainings, n]."""
    rows = Spread(cluster_variance(b.mean(axis=0) - a.mean(axis=0), clusters), len(np.unique(clusters)))
    means_a, means_b = a.mean(axis=1), b.mean(axis=1)
    spread = _over_seeds(means_a, means_b, rows, paired=paired)
    return EffectiveEstimate(float(means_b.mean() - means_a.mean()), len(clusters), spread)


def seeded_estimate(
    a: Floats, b: Floats, resampled: Floats, clusters: Ints, *, paired: bool, identical: bool, bounded: bool
) -> EffectiveEstimate:
    """The difference of two statistics that are no means.

    a, b: the statistic of each training [trainings]; resampled: the difference of the sides' means on bootstrap samples
    of the products [resamples].
    """
    present = resampled[np.isfinite(resampled)]
    rows = Spread(float(present.var(ddof=1)) if len(present) > 1 else 0.0, len(np.unique(clusters)))
    spread = _over_seeds(a, b, rows, paired=paired)
    return EffectiveEstimate(float(b.mean() - a.mean()), len(clusters), spread, identical, bounded)


def _cautious(rows: Spread, gaps: Floats, seen: float) -> Spread:
    """`rows`, drawn towards what one training shows where few products differ: [trainings, n], `seen` of them in a training.

    By chance few of them may be products on which all trainings answer alike: 12 trainings on 500 rows, 10 of them discordant,
    were then falsely EQUIVALENT in 6.0 % of cases. Sides that are not paired are held to their level by `_over_seeds`.
    """
    largest = float(gaps.var(axis=1, ddof=1).mean()) / gaps.shape[1]
    caution = Caution(seen, rows.rows, largest, TRUST_PRODUCTS)
    return replace(rows, rows=caution.variance, caution=caution)


def _residual(a: Floats, b: Floats, clusters: Ints, *, paired: bool) -> float:
    """The variance of the mean difference that is of one training on one product: what neither the products nor the
    trainings explain."""
    sides = [b - a] if paired else [a, b]
    found = 0.0
    for side in sides:
        apart = side - side.mean(axis=0)
        variance = sum(cluster_variance(line, clusters) for line in apart) / (len(side) - 1)
        found += variance / len(side)
    return found


def _over_seeds(a: Floats, b: Floats, rows: Spread, *, paired: bool) -> Spread:
    """The spread `rows` of products, with that of each training's own value [trainings] a side."""
    if paired:
        return replace(rows, seeds=float((b - a).var(ddof=1)) / len(a), trainings=len(a), seed_df=len(a) - 1.0)
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1.0) for side in (a, b)]
    seeds = sum(part for part, _ in parts)
    below = sum(part**2 / df for part, df in parts)  # Welch 1947
    df = seeds**2 / below if below > 0 else min(df for _, df in parts)
    return replace(rows, seeds=seeds, trainings=min(len(a), len(b)), seed_df=df)
