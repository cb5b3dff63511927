"""A table of a source with the split and the folder that its place gives it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .row import Row, RowError
from .tables import Table

JUDGED_BY = 200  # rows, where columns are judged by their values
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class RawRow(NamedTuple):
    """One row as the source has it. `number` counts all rows from 1; `place` is the file and line."""

    number: int
    values: Row
    split: str | None
    root: str | None  # folder that relative photo paths start from; None: paths are not read
    place: str
    group: str | None = None  # the product, where the mapping names a column of it
    photo: int | None = None  # which of its photos the row shows, where each photo has a row


def first_rows(rows: Iterable[RawRow], count: int = JUDGED_BY) -> Iterator[RawRow]:
    """The rows by which columns are judged."""
    return itertools.islice(rows, count)


class JudgedRows:
    """The first rows of a source, which are read once however often they are asked for."""

    def __init__(self, rows: Iterable[RawRow]) -> None:
        self._rows = rows
        self._found: list[RawRow] | None = None

    def __iter__(self) -> Iterator[RawRow]:
        if self._found is None:
            self._found = list(first_rows(self._rows))
        return iter(self._found)


def first_values(rows: Iterable[RawRow], count: int = JUDGED_BY) -> list[Mapping[str, Any]]:
    """The values of those of them that can be read."""
    return [row.values for row in first_rows(rows, count) if not isinstance(row.values, RowError)]


@dataclass(frozen=True)
class SourceTable:
    """A table of the source with the split that its folder or name gives it. `notes`: what a user may want to know."""

    table: Table
    split: str | None
    root: Path | None
    place: str
    notes: tuple[str, ...] = field(default=())
