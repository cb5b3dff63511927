"""The one format for product data: Arrow shards, pictures stored by content hash, `catalogue.json`.

    DIR/catalogue.json            format, task, splits, counts, source, settings, fingerprint
    DIR/train-00000.arrow         columns: id, images (paths relative to DIR), the task's fields, extra columns
    DIR/images/ab/ab12....png     a picture, named by the SHA-256 of its bytes
    DIR/rejected.csv              what data.ingest left out and why, where it made the catalogue

The shards are Arrow streams, memory-mapped here and readable by `datasets.load_dataset("arrow", data_files=...)`.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import UserError
from .files import read_json
from .task import Task

FORMAT = 1
SPLITS = ("train", "validation", "test")


class Split(Sequence[dict[str, Any]]):
    """Rows of one split, read from memory-mapped shards as they are asked for.

    A row is a dict: "id", "images" (absolute paths, possibly none), the task's fields and any extra columns.
    """

    def __init__(self, folder: Path, name: str, shards: Sequence[str]) -> None:
        self.folder = folder
        self.name = name
        self._batches: list[pa.RecordBatch] = []
        for shard in shards:
            path = folder / shard
            try:
                # The batches keep the map alive; nothing is read before a row is asked for.
                self._batches += pa.ipc.open_stream(pa.memory_map(str(path)))
            except FileNotFoundError:
                raise UserError(f"catalogue shard {path} is missing; make the catalogue again") from None
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(f"catalogue shard {path} cannot be read ({error}); make the catalogue again") from None
        self._ends = list(itertools.accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        batch = self._batches[number]
        row: dict[str, Any] = batch.slice(index - (self._ends[number] - batch.num_rows), 1).to_pylist()[0]
        row["images"] = [str(self.folder / image) for image in row["images"] or []]
        return row

    def batches(self, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Rows in order, some thousand at a time, with these columns only; "images" stay relative to the folder."""
        for batch in self._batches:
            yield batch.select(list(columns)).to_pylist()

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]


class Catalogue:
    """An opened catalogue folder. `task`, `info` (the whole `catalogue.json`) and `split(name)`."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "catalogue.json").is_file():
            raise UserError(f"{folder} is no catalogue (it has no catalogue.json); make one with data.sample or data.ingest")
        self.info: dict[str, Any] = read_json(self.folder / "catalogue.json", "catalogue")
        if self.info.get("format") != FORMAT:
            raise UserError(
                f"{folder} has catalogue format {self.info.get('format')!r}, this version reads {FORMAT}; make it again"
            )
        self.task = Task.from_dict(self.info["task"])
        self.fingerprint: str = self.info["fingerprint"]

    def split(self, name: str) -> Split:
        """The rows of split `name`. Raises UserError where it does not exist or is empty."""
        entry = self.info["splits"].get(name)
        if entry is None:
            raise UserError(f"{self.folder} has no split {name!r}; it has {', '.join(self.info['splits'])}")
        if not entry["rows"]:
            raise UserError(
                f"split {name!r} of {self.folder} is empty; choose another or make the catalogue with more products"
            )
        return Split(self.folder, name, entry["shards"])


def iterate(split: Split) -> Iterator[dict[str, Any]]:
    """Rows of a split in order."""
    for index in range(len(split)):
        yield split[index]
