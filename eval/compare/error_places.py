"""Where two runs err: in which prices and categories, by how much money, and how sure they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .calibration import Calibration, calibrate
from .category_forest import CategoryDifference, category_forest
from .confusion_change import ConfusionChange, confusion_changes
from .paired_runs import PairedRuns
from .price_errors import PriceErrors, price_errors
from .verdict import Gate


@dataclass(frozen=True)
class ErrorPlaces:
    """What a report shows of where the runs err; each is empty where the runs do not tell."""

    prices: list[PriceErrors]
    categories: list[CategoryDifference]
    confusion: list[ConfusionChange]
    calibration: list[Calibration]


def find_error_places(data: PairedRuns, gates: Sequence[Gate], *, seed: int, resamples: int) -> ErrorPlaces:
    """All of it, of the rows that both runs have."""
    prices = price_errors(data, seed=seed, resamples=resamples)
    return ErrorPlaces(prices, category_forest(data, gates), confusion_changes(data), calibrate(data))
