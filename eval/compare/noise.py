"""How far apart two runs' log-probabilities are, and the noise floor to judge that by.

The noise floor is the reference against itself at another batch size, attention or dtype. The gap between two runs is
reported as a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runs.columns import Floats, RunColumns, TokenColumns
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


@dataclass(frozen=True)
class LogitNoise:
    """How far two runs' logits are apart where their answers still agree, and what near-tie that allows. In nats.

    A token's log-probability moves by (1 - p) times the change of its logit against the others', so the gap is divided by
    1 - p; tokens that are all but certain say nothing. Of rounding in bf16 the median is about 0.03, with an adapter
    scaled to 0.9 it is 0.46 (the tiny model, both figures over 1,500 tokens and more).
    """

    median: float | None  # None: fewer than 30 tokens say something
    tokens: int
    rounding: bool  # whether it is no more than rounding
    most: float  # the most that is called rounding, by dtype
    near_tie: float  # the widest margin called a near-tie


_MOST_ROUNDING = {"float32": 1e-3, "other": 0.1}
_LEAST_NEAR_TIE = {"float32": 1e-3, "other": 0.125}  # one step of bf16 at logits from 16 to 32
_TELLING = 0.02  # the least 1 - p
_LEAST_TOKENS = 30
# A margin at the divergence is the difference of two logits' noise at the most unlucky of thousands of tokens: five
# standard deviations, of which the median of absolute values is 0.67.
_TIMES_MEDIAN = 5 / 0.67


def measure_logit_noise(a: RunColumns, b: RunColumns, joined: RowJoin, *, coarse: bool, near_tie: float) -> LogitNoise:
    """The noise of two runs; `near_tie` is the widest margin that the dtype allows."""
    kind = "other" if coarse else "float32"
    gaps, likelier = _before_divergence(a.tokens, b.tokens, joined)
    doubt = 1 - np.exp(likelier)
    telling = doubt > _TELLING
    most = _MOST_ROUNDING[kind]
    if telling.sum() < _LEAST_TOKENS:
        return LogitNoise(None, int(telling.sum()), True, most, near_tie)
    median = float(np.median(gaps[telling] / doubt[telling]))
    widest = max(_LEAST_NEAR_TIE[kind], _TIMES_MEDIAN * median)
    return LogitNoise(median, int(telling.sum()), median <= most, most, min(near_tie, widest))


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


def _logprob_gaps(a: TokenColumns, b: TokenColumns, joined: RowJoin) -> Floats:
    return _before_divergence(a, b, joined)[0]


def _before_divergence(a: TokenColumns, b: TokenColumns, joined: RowJoin) -> tuple[Floats, Floats]:
    """Of all tokens before each row's first difference: (|A - B| of the log-probabilities, the lower of the two)."""
    start_a, start_b = a.bounds[joined.a], b.bounds[joined.b]
    length = np.minimum(a.bounds[joined.a + 1] - start_a, b.bounds[joined.b + 1] - start_b)
    start_a, start_b, length = start_a[length > 0], start_b[length > 0], length[length > 0]
    if not len(length):
        return np.zeros(0), np.zeros(0)
    begins = np.concatenate([[0], np.cumsum(length)[:-1]])
    within = np.arange(length.sum()) - np.repeat(begins, length)
    flat_a, flat_b = np.repeat(start_a, length) + within, np.repeat(start_b, length) + within
    # A row's tokens count up to its first difference: after it the two runs continue other texts.
    differs = np.where(a.ids[flat_a] != b.ids[flat_b], within, np.iinfo(np.int64).max)
    first = np.repeat(np.minimum.reduceat(differs, begins), length)
    gaps = np.abs(a.logprobs[flat_a] - b.logprobs[flat_b])
    known = (within < first) & np.isfinite(gaps)
    return gaps[known], np.minimum(a.logprobs[flat_a], b.logprobs[flat_b])[known]
