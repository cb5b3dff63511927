"""Small tables to ingest."""

from __future__ import annotations

import csv
from pathlib import Path


def write_cells(path: Path, *lines: str) -> Path:
    """A table whose cells are written apart by `|`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(line.split("|") for line in lines)
    return path
