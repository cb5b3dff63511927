"""The CSV of the published training recipe."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plan import IngestPlan


class PublishedCsv:
    """products.csv as the published recipe reads it: the columns of a row, and its first photo as `local_image_path`."""

    def __init__(self, folder: Path, output: Path, plan: IngestPlan) -> None:
        self._output = output.resolve()
        self._names = [field.name for field in plan.mapping.fields] + list(plan.extras)
        self._file = open(folder / "products.csv", "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, (*self._names, "local_image_path", "split_name"), extrasaction="ignore")
        self._writer.writeheader()

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Write one row."""
        image = str(self._output / row["images"][0]) if row["images"] else ""
        self._writer.writerow({**row, "local_image_path": image, "split_name": split})

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
