"""The difference between two systems on the same rows, with its interval and its test of equality.

`PairedProportion` rests on the discordant counts, `PairedMean` on one bounded difference a row (`bounded_mean`),
`PairedResamples` on paired bootstrap samples: it is shown, and decides nothing. An interval at level
1 - 2 alpha inside the margin is two one-sided tests at alpha (Schuirmann 1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import scipy

from .bounded_mean import PairedMean
from .estimators import Floats
from .proportions import Interval, mcnemar, normal_quantile, tango, tango_beyond, tango_score
from .resampling import percentile_interval


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

    def score(self, delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta` (see `tango_score`)."""
        return tango_score(self.only_a, self.only_b, self.n, delta)

    def beyond(self, margin: float) -> tuple[float, float]:
        """One-sided p-values that the difference is not below -margin, and not above it (see `tango_beyond`)."""
        return tango_beyond(self.only_a, self.only_b, self.n, margin)

    def at(self, n: int) -> PairedProportion:
        """The same rates on n rows."""
        scale = n / self.n
        return PairedProportion(self.only_a * scale, self.only_b * scale, n)

    def with_absent(self, rows: int) -> tuple[PairedProportion, PairedProportion]:
        """The difference with `rows` more rows that only A has right, and with as many that only B has right."""
        n = self.n + rows
        return PairedProportion(self.only_a + rows, self.only_b, n), PairedProportion(self.only_a, self.only_b + rows, n)


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
    clusters: int | None = None  # of rows that belong together, where that is not every row by itself

    @property
    def method(self) -> str:
        """How the interval is made: "bootstrap", or "score" where no row differs."""
        return "score" if self.identical and self.bounded else "bootstrap"

    def interval(self, z: float) -> Interval:
        """Percentile interval at the level of normal quantile z."""
        if self.identical:
            return tango(0, 0, self.clusters or self.n, z) if self.bounded else (0.0, 0.0)
        return percentile_interval(self.samples, float(2 * scipy.stats.norm.cdf(z) - 1))

    def differs(self, alpha: float) -> bool:
        """Whether the 1 - alpha interval leaves out zero."""
        low, high = self.interval(normal_quantile(1 - alpha))
        return low > 0 or high < 0

    def p_value(self) -> float | None:
        """None: the bootstrap interval is the test."""
        return None


class Scalable(Protocol):
    """A difference that can be taken to another number of rows, or of trainings."""

    @property
    def n(self) -> float:
        """How many there are: of a `JudgedDifference` the rows judged."""

    @property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""

    def interval(self, z: float) -> Interval:
        """Interval at normal quantile z."""

    def score(self, delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta`."""

    def at(self, n: int) -> Scalable:
        """The same rates from n of them."""


class JudgedDifference(Scalable, Protocol):
    """What a verdict may rest on: a difference that any hypothesis about it can be tested against."""

    def beyond(self, margin: float) -> tuple[float, float]:
        """One-sided p-values that the difference is not below -margin, and not above it."""

    def differs(self, alpha: float) -> bool:
        """Whether equality is rejected at `alpha`."""

    def p_value(self) -> float | None:
        """Of equality."""

    def at(self, n: int) -> JudgedDifference:
        """The same rates on n rows."""

    def with_absent(self, rows: int) -> tuple[JudgedDifference, JudgedDifference]:
        """The difference with `rows` more rows, all lost by B, and all lost by A."""


PairedDifference = PairedProportion | PairedMean | PairedResamples
