"""The mean of a paired difference that lies in [-1, 1], such as a title's ratio under B minus under A: a score statistic.

Tango's interval for two paired shares is built on the constrained estimate: the likeliest rates under the hypothesis that
the difference is `delta`. Here the same is done for differences of any size. The likeliest distribution with mean `delta`
is the empirical likelihood's (Owen 1988), which may also put weight on -1 and 1, where no row was seen: a loss that no
row shows is not ruled out. For differences of -1, 0 and 1 it is Tango's statistic. A bootstrap knows only the rows it has:
at 150 rows and a true loss of 2 points from answers that do not parse it called one comparison of six equivalent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from .estimators import Floats
from .proportions import Interval, bisect, normal_quantile, skewed_tail

_STEP = 1e-4  # differences are counted in steps of this size: a hundredth of a point


@dataclass(frozen=True)
class PairedMean:
    """Mean of B - A per row: `values` [k] in [-1, 1], each seen `counts` [k] times."""

    values: Floats
    counts: Floats
    method = "score"

    @classmethod
    def of(cls, differences: Floats) -> PairedMean:
        """Of one difference per row [n]."""
        values, counts = np.unique(np.round(differences / _STEP) * _STEP, return_counts=True)
        return cls(np.clip(values, -1.0, 1.0), counts.astype(np.float64))

    @cached_property
    def n(self) -> float:
        """How many rows count."""
        return float(self.counts.sum())

    @cached_property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""
        return float(self.values @ self.counts) / self.n if self.n else math.nan

    def score(self, delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta`; standard normal where it is true."""
        gap = self.estimate - delta
        error = math.sqrt(self._moments(delta)[0] / self.n)
        return gap / error if error > 1e-150 else math.copysign(math.inf, gap) if gap else 0.0

    def beyond(self, margin: float) -> tuple[float, float]:
        """One-sided p-values that the difference is not below -margin, and not above it (see `skewed_tail`)."""
        step = 0.5 * (float(np.abs(self.values).max(initial=0.0)) or 1.0)
        found = []
        for delta, sign in ((-margin, -1.0), (margin, 1.0)):
            variance, third = self._moments(delta)
            gap = sign * self.n * (self.estimate - delta)
            found.append(skewed_tail(gap, self.n, variance, sign * third, step))
        return found[0], found[1]

    def _moments(self, delta: float) -> tuple[float, float]:
        """The second and third central moment of one row in the likeliest distribution with mean `delta`."""
        apart, share = self.values - delta, self.counts / self.n
        if abs(delta) >= 1:
            return 0.0, 0.0

        def slack(tilt: float) -> float:
            return float((share * apart / (1 + tilt * apart)).sum())

        # Weights share / (1 + tilt * apart) must stay positive at -1 and 1 too.
        end = 1 / (1 + delta) if slack(0.0) > 0 else -1 / (1 - delta)
        inside = end * (1 - 1e-12)
        if slack(0.0) * slack(inside) >= 0:  # no row lies far enough out: the rest of the weight goes to that end
            tilt, edge = inside, (-1.0 if end > 0 else 1.0)
        else:
            tilt, edge = float(scipy.optimize.brentq(slack, min(0.0, inside), max(0.0, inside), xtol=1e-14)), 0.0
        weights = share / (1 + tilt * apart)
        rest = max(0.0, 1 - float(weights.sum())) if edge else 0.0
        return (
            float((weights * apart**2).sum()) + rest * (edge - delta) ** 2,
            float((weights * apart**3).sum()) + rest * (edge - delta) ** 3,
        )

    def interval(self, z: float) -> Interval:
        """Score interval at normal quantile z; (-1, 1) where no row is judged."""
        if not self.n:
            return -1.0, 1.0
        low = bisect(lambda delta: self.score(delta) > z, -1.0, self.estimate, steps=30)
        high = bisect(lambda delta: self.score(delta) > -z, self.estimate, 1.0, steps=30)
        return low, high

    def differs(self, alpha: float) -> bool:
        """Whether the score test rejects equality at `alpha`."""
        return abs(self.score(0.0)) > normal_quantile(1 - alpha)

    def p_value(self) -> float:
        """Two-sided p-value that the mean difference is 0."""
        return float(2 * scipy.stats.norm.sf(abs(self.score(0.0))))

    def at(self, n: int) -> PairedMean:
        """The same distribution on n rows."""
        return PairedMean(self.values, self.counts * (n / self.n))

    def with_absent(self, rows: int) -> tuple[PairedMean, PairedMean]:
        """The difference with `rows` more rows at their worst for B, and at their worst for A."""
        count = np.append(self.counts, float(rows))
        return PairedMean(np.append(self.values, -1.0), count), PairedMean(np.append(self.values, 1.0), count)
