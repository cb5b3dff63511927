"""Statistics of a run's rows that can be resampled: mean, median, macro-F1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Mean:
    """Mean of `values` where `mask`; both [n]."""

    values: Floats
    mask: Bools

    @property
    def rows(self) -> int:
        """How many rows count."""
        return int(self.mask.sum())

    def point(self) -> float:
        """The statistic on the data; NaN where no row counts."""
        return float(self.values[self.mask].mean()) if self.mask.any() else math.nan


@dataclass(frozen=True)
class Median:
    """Median of `values` where `mask`; both [n]."""

    values: Floats
    mask: Bools

    @property
    def rows(self) -> int:
        """How many rows count."""
        return int(self.mask.sum())

    def point(self) -> float:
        """The statistic on the data; NaN where no row counts."""
        return float(np.median(self.values[self.mask])) if self.mask.any() else math.nan

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        rows = np.flatnonzero(self.mask)
        return rows[np.argsort(self.values[rows], kind="stable")]

    def resampled(self, weights: Floats) -> Floats:
        """Weighted medians; weights [r, n] -> [r].

        The weight below a rank has a standard deviation of at most sqrt(n) / 2, so a window of 8 sqrt(n) ranks around
        the middle holds the median of all but extreme resamples. Where it does not, all ranks are searched.
        """
        order = self._order
        if not len(order):
            return np.full(len(weights), math.nan)
        half = (weights @ self.mask.astype(np.float64))[:, None] / 2
        reach = int(4 * math.sqrt(len(order))) + 1
        start, stop = max(0, len(order) // 2 - reach), min(len(order), len(order) // 2 + reach)
        medians, certain = self._within(weights, half, start, stop)
        if not certain:
            medians, _ = self._within(weights, half, 0, len(order))
        return np.where(half[:, 0] > 0, medians, math.nan)

    def _within(self, weights: Floats, half: Floats, start: int, stop: int) -> tuple[Floats, bool]:
        """(medians, whether all are among the ranks [start, stop))."""
        below = np.zeros(len(self.values))
        below[self._order[:start]] = 1.0
        window = self._order[start:stop]
        ranked = self.values[window]
        begin = (weights @ below)[:, None]
        reached = begin + np.cumsum(weights[:, window], axis=1)
        lower = (reached >= half).argmax(axis=1)
        upper = (reached > half).argmax(axis=1)
        certain = bool((begin < half).all() and (reached[:, -1:] > half).all()) or (start == 0 and stop == len(self._order))
        return np.asarray((ranked[lower] + ranked[upper]) / 2), certain


@dataclass(frozen=True)
class MacroF1:
    """Mean F1 over the classes of the true values.

    `true` and `predicted` are class codes [n]; -1 is no class (no true value: the row is left out; no prediction: wrong).
    A class that is predicted but never true lowers the recall of its rows; it is not averaged in.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    classes: int

    @cached_property
    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(each row's cell of the confusion matrix [n], the cells' codes [k])."""
        codes = np.where(self.true < 0, -1, self.true * (self.classes + 1) + self.predicted + 1)
        cells, rows = np.unique(codes, return_inverse=True)
        return rows, cells

    @property
    def rows(self) -> int:
        """How many rows have truth."""
        return int((self.true >= 0).sum())

    def point(self) -> float:
        """The statistic on the data; NaN where no row has truth."""
        return float(self.resampled(np.ones((1, len(self.true))))[0])

    def resampled(self, weights: Floats) -> Floats:
        """Macro-F1 of each resample; weights [r, n] -> [r]."""
        rows, cells = self._cells
        counts = np.stack([np.bincount(rows, weights=line, minlength=len(cells)) for line in weights])  # [r, k]
        true, predicted = cells // (self.classes + 1), cells % (self.classes + 1) - 1
        judged = cells >= 0
        classes = np.arange(self.classes)
        is_true = ((true[:, None] == classes) & judged[:, None]).astype(np.float64)  # [k, classes]
        is_predicted = ((predicted[:, None] == classes) & judged[:, None]).astype(np.float64)
        support, answered, hits = counts @ is_true, counts @ is_predicted, counts @ (is_true * is_predicted)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(support > 0, 2 * hits / (support + answered), 0.0)
            return np.asarray(f1.sum(axis=1) / (support > 0).sum(axis=1))


Statistic = Mean | Median | MacroF1


def finite(value: float) -> float | None:
    """`value`, or None where there is none: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
