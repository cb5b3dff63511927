"""Tables read row by row in constant memory: CSV, JSON, JSON lines, Parquet, Arrow, sheets, XML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .arrow_tables import ArrowTable, ParquetTable
from .reading.byte_streams import COMPRESSED
from .reading.csv_table import CsvTable
from .reading.json_table import JsonTable
from .reading.options import Reading as Reading
from .row import Row

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow", ".feather")


class Table(Protocol):
    """Rows with named columns. `rows` starts again at each call; `count` may be an estimate."""

    kind: str
    columns: dict[str, pa.DataType]
    count: int

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line or row number as an editor shows it, values by column or the RowError)."""


def open_table(path: Path, reading: Reading | None = None) -> Table:
    """A table file by its suffix; that of a compression may follow it for text. Raises UserError where it cannot be read."""
    suffix, reading = _suffix(path), reading or Reading()
    try:
        if suffix in (".json", ".jsonl", ".ndjson"):
            return JsonTable(path, quick=reading.quick)
        if suffix == ".parquet":
            return ParquetTable(path)
        if suffix in (".arrow", ".feather"):
            return ArrowTable(path)
        return CsvTable(path, reading, tabs=suffix in (".tsv", ".tab"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def is_table(path: Path) -> bool:
    """Whether `open_table` knows the suffix."""
    return _suffix(path) in SUFFIXES


def _suffix(path: Path) -> str:
    names = [suffix.lower() for suffix in path.suffixes]
    if names[-1:] and names[-1] in COMPRESSED and names[-2:-1] and names[-2] in TEXT_SUFFIXES:
        names = names[:-1]
    return names[-1] if names else ""
