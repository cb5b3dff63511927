"""JSON of any form that holds rows as a table: a list of objects, also inside objects, or objects one after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.errors import UserError

from ..row import Row, RowError
from .json_file import JsonFile

_QUICK_ROWS = 2000


class JsonTable:
    """JSON rows. Columns are those that any row has; what is nested stays as it is, and is carried along as text.

    `quick`: columns and count are those of the first rows.
    """

    kind = "json"

    def __init__(self, file: JsonFile | Path, *, quick: bool = False) -> None:
        self.file = file if isinstance(file, JsonFile) else JsonFile(file)
        path = self.file.path
        self.columns: dict[str, pa.DataType] = {}
        self.count = 0
        for _, row in itertools.islice(self.rows(), _QUICK_ROWS if quick else None):
            self.count += 1
            if not isinstance(row, RowError):
                self.columns.update((key, pa.string()) for key in row.keys() - self.columns.keys() if key)
        if not self.columns:
            raise UserError(f"{path} holds no rows; write a JSON list of objects or one object a line")
        self.columns = dict(sorted(self.columns.items()))
        self.notes = [f"{path.name}: {self.file.shape.note}"] if self.file.shape.note else []

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each object with its line (JSON lines) or its place in the list, from 1."""
        return self.file.rows()
