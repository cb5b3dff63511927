"""How many rows would decide: the power of a measure's tests, and of all deciding measures together.

Normal approximations to the score tests, counted out for shares of independent rows. A measure's rates are taken as seen; more
rows have the same rates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from .counted_power import counted_power
from .statistics import (
    EffectiveMean,
    EffectiveProportion,
    Interval,
    JudgedDifference,
    PairedProportion,
    Scalable,
    normal_cdf,
    normal_quantile,
)  # fmt: skip

ALPHA = 0.05
POWER = 0.80
_MOST_ROWS = 100_000_000
_LEVELS = 16  # of the deviation from seed to seed that a few trainings may show
_Z_POWER = normal_quantile(2 * POWER - 1)
_NARROW = 0.5  # a quantile at which the score interval's width is that of the estimate's own error


@dataclass(frozen=True)
class PerTraining:
    """A difference over several trainings a side, counted in trainings. rows_too: the rows grow as the trainings do."""

    difference: EffectiveProportion | EffectiveMean
    rows_too: bool = False

    @property
    def n(self) -> float:
        """Trainings a side."""
        return self.difference.spread.trainings

    @property
    def estimate(self) -> float:
        """B minus A."""
        return self.difference.estimate

    def interval(self, z: float) -> Interval:
        """Interval at normal quantile z."""
        return self.difference.interval(z)

    def score(self, delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta`."""
        return self.difference.score(delta)

    def at(self, n: int) -> PerTraining:
        """The same rates from n trainings a side."""
        rows = round(self.difference.n * n / self.n) if self.rows_too else self.difference.n
        return PerTraining(self.difference.at(int(rows)).with_trainings(n), self.rows_too)


def power_same(difference: Scalable, margin: float, n: float, *, better: int = 0) -> float:
    """The chance that n rows show a measure within its margin; with `better`, that B is no worse."""
    more, estimate, z = _at(difference, n), difference.estimate, normal_quantile(1 - 2 * ALPHA)
    independent = _independent(more)
    if independent:
        return counted_power(independent, margin, _quantile(more, z), better=better)
    error, powers = _error(more), []
    for seen in _as_seen(more):
        power = 1.0
        for end, counts in ((-margin, better >= 0), (margin, better <= 0)):
            if counts:
                # The score test measures by the error that a difference at the margin would have, not by the one it has.
                score = _plain(seen).score(end)
                there = (estimate - end) / score if score else math.inf
                gap = abs(estimate - end) * _sign(estimate, end) - _quantile(seen, z) * there
                power += normal_cdf(gap / error) - 1
        powers.append(max(0.0, power))
    return float(np.mean(powers))


def _independent(more: Scalable) -> PairedProportion | None:
    """The shares, where rows are independent and there is one training a side."""
    if isinstance(more, EffectiveProportion):
        return more.plain if not more.spread.seeds and more.spread.caution is None else None
    return more if isinstance(more, PairedProportion) else None


def _sign(estimate: float, end: float) -> float:
    """1 where the estimate is on the inner side of this end of the margin, else -1."""
    return 1.0 if (estimate - end) * -end > 0 else -1.0


def power_beyond(difference: Scalable, margin: float, n: float, *, gates: int, better: int = 0) -> float:
    """The chance that n rows show a difference beyond the margin; with `better`, a loss of B beyond it."""
    estimate = difference.estimate
    if better and estimate * better >= 0:
        return 0.0
    more, z = _at(difference, n), normal_quantile(1 - 2 * ALPHA / gates)
    error = _error(more)
    reaches = [_half_width(seen, z) for seen in _as_seen(more)]
    return float(np.mean([normal_cdf((abs(estimate) - margin - reach) / error) for reach in reaches]))


def _at(difference: Scalable, n: float) -> Scalable:
    more = difference.at(max(1, round(n)))
    return more.difference if isinstance(more, PerTraining) else more


def _as_seen(more: Scalable) -> list[Scalable]:
    """The difference as it will be judged: with few trainings the deviation that they show is often not the true one."""
    if not isinstance(more, EffectiveProportion | EffectiveMean) or not more.spread.seeds:
        return [more]
    shown = _shown_variances(more.spread.seed_df)
    return [replace(more, spread=replace(more.spread, seeds=more.spread.seeds * part)) for part in shown]


@functools.cache
def _shown_variances(df: float) -> list[float]:
    """What a variance known by so many degrees of freedom is found to be, as multiples of the true one: equally likely."""
    found: list[float] = (scipy.stats.chi2.ppf((np.arange(_LEVELS) + 0.5) / _LEVELS, df) / df).tolist()
    return found


def _plain(difference: Scalable) -> Scalable:
    return difference.plain if isinstance(difference, EffectiveProportion | EffectiveMean) else difference


def _quantile(difference: Scalable, z: float) -> float:
    return difference.spread.quantile(z) if isinstance(difference, EffectiveProportion | EffectiveMean) else z


def _error(more: Scalable) -> float:
    """The standard deviation of the estimate."""
    own = more.spread.true_share if isinstance(more, EffectiveProportion | EffectiveMean) else 1.0
    return _half_width(_plain(more), _NARROW) / _NARROW * math.sqrt(own)


def _half_width(difference: Scalable, z: float) -> float:
    """Half the interval's width at normal quantile z."""
    low, high = difference.interval(z)
    return max((high - low) / 2, 1e-12)


def rows_needed(
    difference: JudgedDifference, margin: float, *, gates: int = 1, better: int = 0
) -> tuple[int | None, int | None, int | None]:
    """Rows in all at which one measure is found within its margin, to differ at all, and to differ beyond its margin.

    Each with 80 % power, these rates being true. To differ at all is judged by the exact McNemar test, with Fleiss's
    continuity correction (2 / |difference| more rows). None where no number of rows does it: a difference beyond the
    margin is never within it, one inside never beyond it, none at all never a difference.
    """
    if not difference.n or math.isnan(difference.estimate):
        return None, None, None
    start, estimate = int(difference.n), abs(difference.estimate)
    z = normal_quantile(1 - ALPHA / gates)
    z_same = normal_quantile(1 - 2 * ALPHA)
    step = _step(difference)

    def finds_difference(n: int) -> bool:
        fewer = n - 2 * step / estimate
        return fewer > 0 and estimate / _test_error(difference, fewer, z_same) - z >= _Z_POWER

    def finds_same(n: int) -> bool:
        ends = [
            math.inf if better < 0 else margin + difference.estimate,
            math.inf if better > 0 else margin - difference.estimate,
        ]
        error = _test_error(difference, n, z_same)
        return sum(normal_cdf(end / error - z_same) for end in ends) - 1 >= POWER

    same = _first_n(finds_same, start)
    differs = _first_n(finds_difference, start) if estimate > 1e-12 else None
    beyond = None
    if estimate > margin:
        beyond = _first_n(lambda n: power_beyond(difference, margin, n, gates=gates, better=better) >= POWER, start)
    return same, differs, beyond


def _test_error(difference: Scalable, n: float, z: float) -> float:
    return _half_width(difference.at(max(1, int(n))), z) / z


def _step(difference: JudgedDifference) -> float:
    """Rows by which the sum of an exact test moves at once: one, or those that move together; 0 of a test that is not exact."""
    if isinstance(difference, EffectiveProportion):
        return max(1.0, difference.n / difference.effective_rows) if difference.exact_p is not None else 0.0
    return float(isinstance(difference, PairedProportion))


def rows_to_decide(
    differences: Sequence[Scalable], margins: Sequence[float], better: Sequence[int]
) -> tuple[int | None, int | None]:
    """Rows in all (of `PerTraining`, trainings a side) at which every measure is found within its margin, and at which any is
    found beyond it.

    Each with 80 % power for all measures together: the product of the single powers, as if the measures moved
    independently. Measures of the same rows move together, which only raises the chance that all are within.
    """
    start = int(max(item.n for item in differences))
    if any(not item.n or math.isnan(item.estimate) for item in differences):
        return None, None
    triples = list(zip(differences, margins, better))

    def all_same(n: int) -> bool:
        powers = [power_same(item, margin, n * item.n / start, better=sign) for item, margin, sign in triples]
        return float(np.prod(powers)) >= POWER

    def any_beyond(n: int) -> bool:
        powers = [
            power_beyond(item, margin, n * item.n / start, gates=len(triples), better=sign) for item, margin, sign in triples
        ]
        return 1 - float(np.prod([1 - power for power in powers])) >= POWER

    outside = any(abs(item.estimate) > margin for item, margin, _ in triples)
    return _first_n(all_same, start), _first_n(any_beyond, start) if outside else None


def _first_n(decided: Callable[[int], bool], n: int) -> int | None:
    """The fewest rows, from n on, at which `decided` holds; None beyond a hundred million."""
    low, high = n, max(n, 1)
    while not decided(high):
        low, high = high, high * 2
        if high > _MOST_ROWS:
            return None
    while high - low > max(1, low // 500):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high
