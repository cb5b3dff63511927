"""A table of a source with the split and the folder that its place gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .row import Row
from .tables import Table

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


@dataclass(frozen=True)
class SourceTable:
    """A table of the source with the split that its folder or name gives it. `notes`: what a user may want to know."""

    table: Table
    split: str | None
    root: Path | None
    place: str
    notes: tuple[str, ...] = field(default=())
