"""Efron's percentile bootstrap over rows, or over clusters of rows: both systems' answers for one row move together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .estimators import Floats, Mean, Statistic
from .proportions import Interval

_CHUNK_WEIGHTS = 4_000_000  # resample weights held at once: 32 MB


def resample_weights(n: int, seed: int, resamples: int, clusters: NDArray[np.int64] | None = None) -> Iterator[Floats]:
    """How often each row is drawn: `resamples` resamples in all, in chunks [r, n].

    clusters: the number of each row's cluster, from 0 [n]; whole clusters are then drawn (Field and Welsh 2007).
    """
    if clusters is not None:
        for weights in resample_weights(int(clusters.max(initial=-1)) + 1, seed, resamples):
            yield weights[:, clusters]
        return
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, _CHUNK_WEIGHTS // max(n, 1)))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # Row by row: the counts of one resample stay in the cache.
        yield np.stack([np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(size)]).astype(np.float64)


def bootstrap(
    statistics: list[Statistic], n: int, *, seed: int, resamples: int, clusters: NDArray[np.int64] | None = None
) -> Floats:
    """Every statistic on the same resamples of n rows, or of their clusters [n]: [resamples, len(statistics)].

    Statistics of the same resample may be subtracted: that pairs them.
    """
    results = np.full((resamples, len(statistics)), math.nan)
    if n == 0:
        return results
    means = [i for i, item in enumerate(statistics) if isinstance(item, Mean)]
    others = [(i, item) for i, item in enumerate(statistics) if not isinstance(item, Mean)]
    picked = [item for item in statistics if isinstance(item, Mean)]
    # One matrix product for all means: the weights are read once.
    columns = [np.where(item.mask, item.values, 0.0) for item in picked] + [item.mask.astype(np.float64) for item in picked]
    matrix = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
    start = 0
    for weights in resample_weights(n, seed, resamples, clusters):
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
    present = samples[np.isfinite(samples)]
    if not len(present):
        return math.nan, math.nan
    low, high = np.quantile(present, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
