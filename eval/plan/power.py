"""The chance of EQUIVALENT: of one pair of runs, and of several trainings a side.

Both are counted for the tests that the verdict uses (`eval.compare.statistics`): the score test of Tango at both ends of the
margin, one-sided 5 % each. Rates are those of the population; `Measure.difference` is the true B minus A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from ..compare.counted_power import border, counted_power
from ..compare.power import ALPHA, POWER, power_beyond
from ..compare.statistics import PairedProportion, Spread, bisect, normal_quantile
from ..compare.statistics.seeded import TRUST_PRODUCTS
from ..compare.statistics.spread import Caution

MOST_ROWS = 10_000_000
MOST_TRAININGS = 200
_Z = normal_quantile(1 - 2 * ALPHA)
_QUANTILES = 24  # of the estimated variance between trainings
_TRUST_PRODUCTS = 10  # as in `statistics.spread`


@dataclass(frozen=True)
class Measure:
    """One measure that decides. Shares: 0.02 is two points.

    discordance: rows that only one of two runs has right; difference: true B minus A.
    """

    label: str
    discordance: float
    margin: float
    difference: float = 0.0

    @property
    def per_row(self) -> float:
        """Variance of one row's B minus A."""
        return self.discordance - self.difference**2


@dataclass(frozen=True)
class Rows:
    """`n` rows, `size` to a product, whose answers are right or wrong together with the correlation given."""

    n: int
    size: float = 1.0
    correlation: float = 1.0

    @property
    def effect(self) -> float:
        """Design effect (Kish 1965): how much wider the variance is than that of independent rows."""
        return 1 + (self.size - 1) * self.correlation

    def judged_effect(self, discordance: float) -> float:
        """The design effect that the tests see: drawn towards the worst, `size`, where few products have discordant rows."""
        if self.size <= 1:
            return 1.0
        products = self.n * discordance / self.effect
        trust = products / (products + _TRUST_PRODUCTS)
        return trust * self.effect + (1 - trust) * max(self.effect, self.size)

    def of(self, n: int) -> Rows:
        """`n` rows of the same kind."""
        return Rows(n, self.size, self.correlation)


@dataclass(frozen=True)
class Seeds:
    """`trainings` a side, paired by seed.

    deviation: of a training's share from seed to seed. shared: of the rows' variance, how much all pairs of trainings have in
    common; what is left is each pair's own, and becomes less with more trainings.
    """

    trainings: int
    deviation: float
    shared: float = 0.5

    def of(self, trainings: int) -> Seeds:
        """So many trainings of the same kind."""
        return Seeds(trainings, self.deviation, self.shared)


def power_pair(measure: Measure, rows: Rows) -> float:
    """The chance that one pair of runs is found within the margin.

    Independent rows are counted out.
    """
    if abs(measure.difference) >= measure.margin:
        return 0.0
    if rows.size > 1:
        return _power_spread(measure, rows, None)
    discordant, more = rows.n * max(measure.discordance, abs(measure.difference)), rows.n * measure.difference
    return counted_power(PairedProportion((discordant - more) / 2, (discordant + more) / 2, rows.n), measure.margin, _Z)


def power_trainings(measure: Measure, rows: Rows, seeds: Seeds) -> float:
    """The chance that several trainings a side are found within the margin; two a side at least.

    Trainings that differ by so much have at least as many rows that only one of them has right.
    """
    if abs(measure.difference) >= measure.margin:
        return 0.0
    apart = 2 * seeds.deviation / math.sqrt(math.pi)  # the mean of |N(0, 2 deviation**2)|
    return _power_spread(replace(measure, discordance=min(1.0, max(measure.discordance, apart))), rows, seeds)


def _power_spread(measure: Measure, rows: Rows, seeds: Seeds | None) -> float:
    """By the estimate's normal distribution and the tests' own spread (`statistics.effective`).

    The variance between trainings is estimated from a few of them: its chi-squared distribution is summed over.
    """
    own = measure.per_row * rows.effect / rows.n
    wider = rows.judged_effect(measure.discordance) / rows.effect
    if seeds is None:
        return _power_at(measure, rows, Spread(own * wider, rows.n / rows.size), own)
    k, common = seeds.trainings, own * seeds.shared
    between = (2 * seeds.deviation**2 + own - common) / k
    # The tests add what the pairs do not share twice, on purpose; the estimate has it once.
    of_rows, true = _drawn((common + (own - common) / k) * wider, own, rows, measure.discordance), common + between
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    seen = between * scipy.stats.chi2.ppf(levels, k - 1) / (k - 1)
    powers = [_power_at(measure, rows, Spread(of_rows, rows.n / rows.size, float(v), k, k - 1.0), true) for v in seen]
    return float(np.mean(powers))


def _drawn(of_rows: float, of_one: float, rows: Rows, discordance: float) -> float:
    """The variance over rows as the tests take it: towards that of one training where few rows are discordant in it.

    Products of several rows have the caution of `Rows.judged_effect` instead (`statistics.seeded`).
    """
    if rows.size > 1:
        return of_rows
    return Caution(rows.n * discordance, of_rows, of_one, TRUST_PRODUCTS).variance


def _power_at(measure: Measure, rows: Rows, spread: Spread, variance: float) -> float:
    """With this spread found, where the estimate's variance is `variance`."""
    n = float(rows.n)
    effective = measure.per_row / spread.total if spread.total > 0 and measure.per_row > 0 else spread.clusters
    most = border(n * measure.discordance, n, effective, measure.margin, spread.quantile(_Z)) / n
    if most < 0:
        return 0.0
    if variance <= 0:
        return 1.0
    error = math.sqrt(variance)
    high, low = ((end - measure.difference) / error for end in (most, -most))
    return float(scipy.stats.norm.cdf(high) - scipy.stats.norm.cdf(low))


def joint(powers: Sequence[float]) -> float:
    """All measures together, as if they moved independently; measures of the same rows move together, which helps."""
    return float(np.prod(powers))


def rows_for(power: Callable[[int], float], start: int = 10) -> int | None:
    """The fewest rows (to 1 in 500) at which `power` reaches 80 %; None where ten million do not."""
    return _first(lambda n: power(n) >= POWER, start, MOST_ROWS)


def trainings_for(power: Callable[[int], float]) -> int | None:
    """The fewest trainings a side at which `power` reaches 80 %; None where 200 do not."""
    return _first(lambda k: power(k) >= POWER, 2, MOST_TRAININGS)


def _first(reached: Callable[[int], bool], low: int, most: int) -> int | None:
    if reached(low):
        return low
    high = low
    while not reached(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, low // 500):
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def loss_found(measure: Measure, rows: Rows, gates: int) -> float | None:
    """The smallest true loss of B, a share, that one pair of runs finds WORSE with 80 % power; None for more than 50 points."""
    n = rows.n / rows.effect

    def found(loss: float) -> bool:
        discordance = max(measure.discordance, loss)
        seen = PairedProportion((discordance + loss) / 2 * n, (discordance - loss) / 2 * n, n)
        return power_beyond(seen, measure.margin, n, gates=gates) >= POWER

    low, high = measure.margin, 0.5
    if not found(high):
        return None
    return bisect(lambda loss: not found(loss), low, high, steps=20)
