"""Several tables of one folder with the same columns, such as one for each category, as one source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .column_names import folded
from .row import Row, RowError, Table
from .source_tables import SPLIT_NAMES
from .tables import Reading, open_table, suffix_of

_MOST_TABLES = 10_000


class PlacedTable:
    """A table with a column that holds its place: the folders it is in and its name, without the suffix."""

    def __init__(self, table: Table, path: Path, place: str, column: str) -> None:
        self.table, self.path, self.place, self.column = table, path, place, column
        self.kind, self.count = table.kind, table.count
        self.columns: dict[str, pa.DataType] = {**table.columns, column: pa.string()}
        self.notes = (f"each table's name is in the column {column!r}", *getattr(table, "notes", ()))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """The table's rows with its place."""
        name = self.place.rpartition(".")[0] or self.place
        for number, row in self.table.rows():
            yield number, row if isinstance(row, RowError) else {**row, self.column: name}


def tables_alike(folder: Path, files: Sequence[Path], reading: Reading) -> list[PlacedTable]:
    """The tables of `files` below `folder`, if all are of one suffix and one set of columns; none else.

    Names of splits and shards are left to others. Their places are the column `category`, or `table` where there is one.
    """
    suffixes = {suffix_of(path) for path in files}
    if len(suffixes) > 1 or suffixes & {".parquet", ".arrow"} or len(files) > _MOST_TABLES:
        return []
    if any(path.stem.lower().startswith(("metadata", *SPLIT_NAMES)) for path in files):
        return []
    tables: list[Table] = []
    for path in files:
        try:
            tables.append(open_table(path, reading))
        except UserError:
            return []
        if tables[-1].columns.keys() != tables[0].columns.keys():
            return []
    column = "table" if {"category", "categories"} & {folded(name) for name in tables[0].columns} else "category"
    while column in tables[0].columns:
        column += "_"
    return [PlacedTable(t, path, path.relative_to(folder).as_posix(), column) for t, path in zip(tables, files)]
