"""A difference whose rows are not independent, or come from several trainings: judged as of fewer rows.

Rows of one product (a cluster) move together, and trainings with other seeds differ. Both widen the variance of the
difference, V. A score statistic (Tango 1998 for shares, `PairedMean` for means) is then taken at the effective number of
rows: at which independent rows would have the variance V, a design effect (Kish 1965; Rao and Scott 1992), with Student's
quantile for what V is known by. So it keeps what the score interval is used for: it stays in [-1, 1] and has a width where
no row differs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import scipy

from .bounded_mean import PairedMean
from .paired import PairedProportion
from .proportions import Interval, normal_quantile, tango
from .spread import Spread


class _AsOfFewerRows(ABC):
    """The tests of a difference of known `spread`: those of `plain`, the same rates on as many independent rows."""

    n: Any
    spread: Spread

    @property
    @abstractmethod
    def plain(self) -> PairedProportion | PairedMean:
        """The same rates on `effective_rows` independent rows."""

    @abstractmethod
    def _row_variance(self) -> float:
        """The variance of one row's difference."""

    @property
    def effective_rows(self) -> float:
        """How many independent rows of one training would tell as much; the clusters where nothing differs."""
        return self._row_variance() / self.spread.total if self._is_known() else self.spread.clusters

    def _is_known(self) -> bool:
        return self.spread.total > 0 and self._row_variance() > 0

    def interval(self, z: float) -> Interval:
        """Score interval at the level of normal quantile z; (-1, 1) where no row is judged."""
        return self.plain.interval(self.spread.quantile(z)) if self.n else (-1.0, 1.0)

    def score(self, delta: float) -> float:
        """Signed score statistic of the hypothesis that the difference is `delta`, on the scale of a normal quantile."""
        return self.spread.normal(self.plain.score(delta))

    def beyond(self, margin: float) -> tuple[float, float]:
        """One-sided p-values that the difference is not below -margin, and not above it."""
        below, above = self.plain.beyond(margin)
        return self.spread.tail(below), self.spread.tail(above)

    def _spread_with(self, more: _AsOfFewerRows, rows: int) -> Spread:
        """The spread once `rows` more rows are there, as `more`: their products are as large as those at hand."""
        scale = 1 + rows / self.n
        design = self.spread.rows * self.n / self._row_variance() if self._is_known() else self.n / self.spread.clusters
        return replace(
            self.spread, rows=design * more._row_variance() / more.n, clusters=self.spread.clusters * scale
        )  # fmt: skip


@dataclass(frozen=True)
class EffectiveProportion(_AsOfFewerRows):
    """Difference of two paired shares, B minus A, of known spread.

    only_a, only_b: discordant rows, averaged over the trainings. n: rows. exact_p: p-value of equality by another test
    than the interval's, None where there is none.
    """

    only_a: float
    only_b: float
    n: float
    spread: Spread
    exact_p: float | None = None
    method = "score"

    @property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""
        return (self.only_b - self.only_a) / self.n if self.n else math.nan

    def _row_variance(self) -> float:
        return (self.only_a + self.only_b) / self.n - self.estimate**2

    @cached_property
    def plain(self) -> PairedProportion:
        """The same rates on `effective_rows` independent rows."""
        scale = self.effective_rows / self.n
        return PairedProportion(self.only_a * scale, self.only_b * scale, self.effective_rows)

    def p_value(self) -> float:
        """Two-sided, that A and B are right equally often."""
        return self.spread.p_value(self.estimate) if self.exact_p is None else self.exact_p

    def differs(self, alpha: float) -> bool:
        """Whether equality is rejected at `alpha`, by the test and, where that is not exact, by the interval too."""
        if self.p_value() >= alpha:
            return False
        low, high = self.interval(normal_quantile(1 - alpha))
        return self.exact_p is not None or low > 0 or high < 0

    def at(self, n: int) -> EffectiveProportion:
        """The same rates on n rows of the same kind and as many trainings."""
        scale = n / self.n
        return EffectiveProportion(self.only_a * scale, self.only_b * scale, n, self.spread.with_rows(scale))

    def with_trainings(self, trainings: int) -> EffectiveProportion:
        """The same rates from so many trainings a side."""
        return replace(self, spread=self.spread.with_trainings(trainings))

    def with_absent(self, rows: int) -> tuple[EffectiveProportion, EffectiveProportion]:
        """The difference with `rows` more rows that only A has right, and with as many that only B has right."""
        n = self.n + rows
        ends = (replace(self, only_a=self.only_a + rows, n=n), replace(self, only_b=self.only_b + rows, n=n))
        low, high = (replace(end, spread=self._spread_with(end, rows), exact_p=None) for end in ends)
        return low, high


@dataclass(frozen=True)
class EffectiveMean(_AsOfFewerRows):
    """Mean of B minus A per row in [-1, 1], of known spread. rows: the differences, counted over the trainings' average."""

    rows: PairedMean
    spread: Spread
    method = "score"

    @property
    def n(self) -> float:
        """Rows judged."""
        return self.rows.n

    @property
    def estimate(self) -> float:
        """B minus A; NaN where no row is judged."""
        return self.rows.estimate

    def _row_variance(self) -> float:
        return float(self.rows.counts @ (self.rows.values - self.estimate) ** 2) / self.n

    @cached_property
    def plain(self) -> PairedMean:
        """The same distribution on `effective_rows` independent rows."""
        return PairedMean(self.rows.values, self.rows.counts * (self.effective_rows / self.n))

    def p_value(self) -> float:
        """Two-sided, that the mean difference is 0."""
        return float(2 * scipy.special.ndtr(-abs(self.score(0.0))))

    def differs(self, alpha: float) -> bool:
        """Whether the score test rejects equality at `alpha`."""
        return abs(self.score(0.0)) > normal_quantile(1 - alpha)

    def at(self, n: int) -> EffectiveMean:
        """The same distribution on n rows of the same kind and as many trainings."""
        return EffectiveMean(self.rows.at(n), self.spread.with_rows(n / self.n))

    def with_trainings(self, trainings: int) -> EffectiveMean:
        """The same distribution from so many trainings a side."""
        return replace(self, spread=self.spread.with_trainings(trainings))

    def with_absent(self, rows: int) -> tuple[EffectiveMean, EffectiveMean]:
        """The difference with `rows` more rows at their worst for B, and at their worst for A."""
        low, high = (EffectiveMean(end, self.spread) for end in self.rows.with_absent(rows))
        return replace(low, spread=self._spread_with(low, rows)), replace(high, spread=self._spread_with(high, rows))


@dataclass(frozen=True)
class EffectiveEstimate:
    """Difference of two statistics that are no shares, B minus A, of known spread, on n rows.

    Where no row differs (`identical`) the spread is zero and says nothing of rows not seen: for a measure in [0, 1] the
    interval is then that of a share of differing rows (`tango` with no discordance).
    """

    estimate: float
    n: int
    spread: Spread
    identical: bool = False
    bounded: bool = False
    method = "student"

    def interval(self, z: float) -> Interval:
        """Student's interval at the level of normal quantile z."""
        if self.identical and self.bounded:
            return tango(0, 0, self.spread.clusters, z)
        reach = self.spread.quantile(z) * math.sqrt(self.spread.total)
        return self.estimate - reach, self.estimate + reach

    def above(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the difference is at most `margin`."""
        if self.spread.total <= 1e-24 * self.estimate**2:
            return float(self.estimate <= margin)
        return self.spread.below((margin - self.estimate) / math.sqrt(self.spread.total))

    def p_value(self) -> float:
        """Two-sided, that both are equal."""
        return self.spread.p_value(self.estimate)

    def differs(self, alpha: float) -> bool:
        """Whether equality is rejected at `alpha`."""
        return self.p_value() < alpha

    def at(self, n: int) -> EffectiveEstimate:
        """The same spread of a row on n rows."""
        return replace(self, n=n, spread=self.spread.with_rows(n / self.n))

    def with_trainings(self, trainings: int) -> EffectiveEstimate:
        """The same spread of a training from so many a side."""
        return replace(self, spread=self.spread.with_trainings(trainings))
