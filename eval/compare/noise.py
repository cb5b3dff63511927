"""How far apart two runs' log-probabilities are, and the noise floor to judge that by.

The noise floor is the reference against itself at another batch size, attention or dtype. The gap between two runs is
reported as a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runs.columns import RunColumns, TokenColumns
from .comparable import RowJoin


@dataclass(frozen=True)
class Noise:
    """Two runs' distance. Log-probability gaps |A - B| are over tokens up to each row's first difference, in nats."""

    rows: int
    diverged: int  # rows whose answers differ
    tokens: int  # equal tokens whose log-probability both runs recorded
    mean: float | None
    median: float | None
    p99: float | None
    largest: float | None


@dataclass(frozen=True)
class Floor:
    """One run of the reference against itself, and the compared gap as a multiple of it (None where it is zero)."""

    label: str
    noise: Noise
    times_diverged: float | None
    times_mean: float | None


def measure_noise(a: RunColumns, b: RunColumns, joined: RowJoin) -> Noise:
    """The distance of two runs over the rows they share."""
    answer = "tokens" if a.digests["tokens"].any() and b.digests["tokens"].any() else "text"
    left, right = a.digests[answer][joined.a], b.digests[answer][joined.b]
    gaps = _logprob_gaps(a.tokens, b.tokens, joined)
    return Noise(
        rows=len(joined.ids),
        diverged=int(((left != right) & (left != 0) & (right != 0)).sum()),
        tokens=len(gaps),
        mean=float(gaps.mean()) if len(gaps) else None,
        median=float(np.median(gaps)) if len(gaps) else None,
        p99=float(np.quantile(gaps, 0.99)) if len(gaps) else None,
        largest=float(gaps.max()) if len(gaps) else None,
    )


def compare_with_floor(label: str, gap: Noise, floor: Noise) -> Floor:
    """`gap` as a multiple of `floor`."""

    def times(value: float | None, base: float | None) -> float | None:
        return value / base if value is not None and base else None

    return Floor(
        label,
        floor,
        times(gap.diverged / max(gap.rows, 1), floor.diverged / max(floor.rows, 1)),
        times(gap.mean, floor.mean),
    )


def _logprob_gaps(a: TokenColumns, b: TokenColumns, joined: RowJoin) -> np.ndarray[Any, np.dtype[np.float64]]:
    start_a, start_b = a.bounds[joined.a], b.bounds[joined.b]
    length = np.minimum(a.bounds[joined.a + 1] - start_a, b.bounds[joined.b + 1] - start_b)
    start_a, start_b, length = start_a[length > 0], start_b[length > 0], length[length > 0]
    if not len(length):
        return np.zeros(0)
    begins = np.concatenate([[0], np.cumsum(length)[:-1]])
    within = np.arange(length.sum()) - np.repeat(begins, length)
    flat_a, flat_b = np.repeat(start_a, length) + within, np.repeat(start_b, length) + within
    # A row's tokens count up to its first difference: after it the two runs continue other texts.
    differs = np.where(a.ids[flat_a] != b.ids[flat_b], within, np.iinfo(np.int64).max)
    first = np.repeat(np.minimum.reduceat(differs, begins), length)
    gaps = np.abs(a.logprobs[flat_a] - b.logprobs[flat_b])
    return np.asarray(gaps[(within < first) & np.isfinite(gaps)])
