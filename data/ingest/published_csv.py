"""The CSV of the published training recipe."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.text import csv_cell

from .plan import IngestPlan


class PublishedCsv:
    """products.csv as the published recipe reads it: the columns of a row, and its first photo as `local_image_path`.

    Text that a spreadsheet would run as a formula gets a leading quote; numbers stay as they are.
    """

    def __init__(self, folder: Path, output: Path, plan: IngestPlan) -> None:
        self._output = output.resolve()
        self._names = [field.name for field in plan.mapping.fields] + list(plan.extras)
        path = folder / "products.csv"
        # The folder of the photos may have a name that is not UTF-8: its bytes are written as they are.
        self._file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, (*self._names, "local_image_path", "split_name"), extrasaction="ignore")
        self._writer.writeheader()

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Write one row."""
        image = str(self._output / row["images"][0]) if row["images"] else ""
        cells = {name: csv_cell(value) for name, value in row.items()}
        self._writer.writerow({**cells, "local_image_path": image, "split_name": split})

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
