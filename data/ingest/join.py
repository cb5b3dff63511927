"""A second table whose rows are put beside the source's by a key, such as a file of prices or of a product's photos."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import is_missing

from .column_names import find_column, named_column
from .paths_in_row import resolve
from .row import RowError
from .tables import Table


class JoinedTable:
    """The rows of a table by a key, in a scratch file, so that memory does not grow with them.

    Several rows of one key give lists of what differs. A column that the source has too is called FILE.COLUMN.
    """

    def __init__(self, table: Table, path: Path, on: str, columns: Mapping[str, pa.DataType]) -> None:
        """`on`: the key's column in both, or SOURCE=TABLE. `columns` are the source's. Raises UserError where it is missing."""
        left, _, right = on.partition("=") if find_column(on, list(columns)) is None else (on, "", "")
        self.left = named_column(left.strip(), list(columns), "the source")
        self.right = named_column(right.strip() or left.strip(), list(table.columns), path.name)
        taken = {*columns, self.right}
        names = {name: name if name not in columns else f"{path.stem}.{name}" for name in table.columns if name != self.right}
        self.names = {name: shown for name, shown in names.items() if shown not in taken}
        self.columns = {shown: pa.string() for shown in self.names.values()}
        self.identity = sha256_json([path.name, on, path.stat().st_size, path.stat().st_mtime_ns])
        self._table = table
        self._database: sqlite3.Connection | None = None

    def beside(self, values: dict[str, Any]) -> dict[str, Any]:
        """A row of the source with the table's values of its key."""
        rows = self._rows_of(resolve(values, self.left))
        return {**values, **{shown: _one_or_list(row.get(name) for row in rows) for name, shown in self.names.items()}}

    def _rows_of(self, key: Any) -> list[dict[str, Any]]:
        if is_missing(key):
            return []
        if self._database is None:
            self._database = self._load()
        found = self._database.execute("SELECT row FROM rows WHERE key = ? ORDER BY number", (_key(key),))
        return [pickle.loads(row) for (row,) in found]  # of our own scratch file

    def _load(self) -> sqlite3.Connection:
        # An empty name is a file that SQLite itself removes when it is closed, also after a kill.
        database = sqlite3.connect("", isolation_level=None)
        database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, key TEXT, row BLOB)")
        database.execute("BEGIN")
        for number, row in self._table.rows():
            if isinstance(row, RowError) or is_missing(key := resolve(row, self.right)):
                continue
            stored = pickle.dumps({name: row[name] for name in self.names if name in row})
            database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (number, _key(key), stored))
        database.execute("COMMIT")
        database.execute("CREATE INDEX by_key ON rows (key)")
        return database


def _key(value: Any) -> str:
    """A key as text: 1501, 1501.0 and "1501" are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _one_or_list(values: Iterable[Any]) -> Any:
    distinct: list[Any] = []
    for value in values:
        if not is_missing(value) and value not in distinct:
            distinct.append(value)
    return distinct[0] if len(distinct) == 1 else distinct or None
