"""Small tables to ingest."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from data.ingest.row import Table


def write_cells(path: Path, *lines: str) -> Path:
    """A table whose cells are written apart by `|`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(line.split("|") for line in lines)
    return path


def column_values(table: Table, name: str) -> list[Any]:
    """The values of a column in all rows, none of which is rejected."""
    rows = [row for _, row in table.rows()]
    assert all(isinstance(row, dict) for row in rows), rows
    return [row[name] for row in rows if isinstance(row, dict)]
