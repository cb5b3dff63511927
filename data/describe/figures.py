"""What a description of a catalogue holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_phi3v.task import Field, Task

_BINS = 24


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram: values from `low` to below `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class FieldFigures:
    """One field over all rows: missing values by split; counts by category and split; a histogram of numbers."""

    field: Field
    missing: dict[str, int]
    categories: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    histogram: tuple[Bin, ...] = ()
    quantiles: dict[str, float] = dataclasses.field(default_factory=dict)
    lengths: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TokenFigures:
    """Tokens of the sampled rows at one `num_crops`; `over` of them are longer than the limit."""

    num_crops: int
    median: int
    p95: int
    largest: int
    image_median: int
    over: int


@dataclass(frozen=True)
class FaultFigures:
    """How many of the sampled rows have a photo with a fault, the first of them, and their thumbnails with captions."""

    name: str
    meaning: str
    rows: int
    first: tuple[str, ...]
    sheet: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LongRows:
    """All rows, not the sample: by split, those that take more than `limit` tokens at `num_crops`; the longest of them."""

    num_crops: int
    limit: int
    over: dict[str, int]
    longest: int
    longest_row: str


@dataclass(frozen=True)
class Piece:
    """A run of an example's text: `trained` pieces are what the loss is taken over."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Preview:
    """One row as training sees it: its text in pieces and its photo as a data URI."""

    row: str
    pieces: tuple[Piece, ...]
    photo: str | None


@dataclass(frozen=True)
class Description:
    """All figures of a catalogue. `limit` is the most tokens a row may take, where it is known."""

    folder: str
    name: str
    fingerprint: str
    task: Task
    rows: dict[str, int]
    counts: dict[str, Any]
    products: dict[str, Any]
    fields: tuple[FieldFigures, ...]
    duplicates: dict[str, int]
    sampled: int
    widths: tuple[Bin, ...]
    heights: tuple[Bin, ...]
    sides: dict[str, float]
    unreadable: tuple[str, ...]
    tokens: tuple[TokenFigures, ...]
    with_text: bool
    limit: int | None
    previews: tuple[Preview, ...]
    sheet: tuple[tuple[str, str], ...]
    faults: tuple[FaultFigures, ...] = ()
    long_rows: LongRows | None = None


def without_pictures(description: Description) -> Description:
    """The figures alone."""
    faults = tuple(replace(fault, sheet=()) for fault in description.faults)
    return replace(description, sheet=(), previews=(), faults=faults)


def histogram(values: Sequence[float] | NDArray[np.float64], *, logarithmic: bool = False) -> tuple[Bin, ...]:
    """Up to 24 bars from the smallest to the largest value, evenly wide or evenly wide in logarithm."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return ()
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return (Bin(low, high, int(numbers.size)),)
    if logarithmic and low > 0:
        edges = np.geomspace(low, high, _BINS + 1)
    else:
        edges = np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # geomspace may round its ends inward
    counts, _ = np.histogram(numbers, edges)
    return tuple(Bin(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts))


def quantiles(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Smallest, 5 %, median, 95 % and largest value; empty for no values."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return {}
    names = ("smallest", "5 %", "median", "95 %", "largest")
    return dict(zip(names, map(float, np.quantile(numbers, (0, 0.05, 0.5, 0.95, 1)))))
