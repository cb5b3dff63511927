"""The one format for product data: Arrow shards, photos stored by content hash, `catalogue.json`.

    DIR/catalogue.json            format, task, splits, counts, source, settings, fingerprint
    DIR/train-00000.arrow         columns: id, images (paths relative to DIR), the task's fields, extra columns,
                                  _image_sizes (width, height of each photo in pixels; hidden from rows),
                                  _product (what rows of one product share; of data.ingest),
                                  _turns (questions and earlier answers of rows that are conversations, see turns.py)
    DIR/images/ab/ab12....png     a photo, named by the SHA-256 of its bytes
    DIR/rejected.csv              what data.ingest left out and why, where it made the catalogue

The shards are Arrow streams, memory-mapped here and readable by `datasets.load_dataset("arrow", data_files=...)`.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .catalogue_checks import check_batch, check_info, check_kinds, is_format, open_shard, python_values
from .catalogue_columns import PRODUCT as PRODUCT
from .errors import UserError
from .files import read_json
from .photo import PhotoError, photo_size
from .prefetch import prefetch
from .task import Task

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
# With the column `_turns`. An earlier version would ask the task's prompt instead of a row's own, so it must not open it.
FORMAT_WITH_TURNS = 2
SPLITS = ("train", "validation", "test")
# The photos' sizes in pixels, as `photo.photo_size` gives them; null for a photo that could not be read. Catalogues
# of earlier versions lack the column, and an earlier version hands it out as one more extra column.
SIZES = "_image_sizes"
SIZES_TYPE = pa.list_(pa.struct([pa.field("width", pa.int32()), pa.field("height", pa.int32())]))


@dataclass(frozen=True)
class ImageSizes:
    """How large the photos of some rows are.

    counts: photos of each row, int64 [rows]. sizes: (width, height) of each photo in pixels, row after row,
    int64 [photos, 2]; zeros for a photo that cannot be read (`photo.photo_size` raises the cause).
    """

    counts: np.ndarray
    sizes: np.ndarray


class Split(Sequence[dict[str, Any]]):
    """Rows of one split, read from memory-mapped shards as they are asked for.

    A row is a dict: "id", "images" (absolute paths, possibly none), the task's fields and any extra columns.
    """

    def __init__(
        self, folder: Path, name: str, shards: Sequence[str], rows: int | None = None, task: Task | None = None
    ) -> None:
        """Open the shards. Raises UserError where one is not sound, or where they do not hold `rows` rows."""
        self.folder = folder
        self.name = name
        self._root = os.path.realpath(folder) + os.sep
        opened = [(shard, batch) for shard in shards for batch in open_shard(folder, shard, task)]
        self._batches: list[pa.RecordBatch] = [batch for _, batch in opened]
        self._shards = [folder / shard for shard, _ in opened]
        self._ends = list(itertools.accumulate(batch.num_rows for batch in self._batches))
        if rows is not None and len(self) != rows:
            where = ", ".join(str(folder / shard) for shard in shards[:3]) or f"{folder}/catalogue.json"
            raise UserError(
                f"split {name!r} has {len(self)} rows in {where}, catalogue.json says {rows}; a shard is cut or "
                "of another catalogue, make the catalogue again"
            )
        schema = self._batches[0].schema if self._batches else pa.schema([])
        other = next((shard for shard, batch in opened if batch.schema != schema), None)
        if other is not None:
            raise UserError(f"catalogue shard {folder / other} has other columns than {shards[0]}; make the catalogue again")
        self.schema = schema  # the columns with their types, also those that rows do not show
        self.has_sizes = SIZES in schema.names and schema.field(SIZES).type == SIZES_TYPE
        self.columns = [name for name in schema.names if not (self.has_sizes and name == SIZES)]
        # All of it now (40 ms for 100,000 rows): a command that finds a bad row later has begun its output.
        numbers = [item.name for item in task.fields if item.kind == "number"] if task else []
        for shard, batch in opened:
            check_batch(batch, folder / shard, numbers, SIZES if self.has_sizes else None)

    def _photo(self, image: str) -> str:
        """The path of a photo. Raises UserError where it is a link out of the folder."""
        path = str(self.folder / image)
        if not os.path.realpath(path).startswith(self._root):
            raise UserError(f"photo {path} is a link out of its catalogue; copy the photo there or make the catalogue again")
        return path

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
        at = index - (self._ends[number] - batch.num_rows)
        row = python_values(batch.slice(at, 1).select(self.columns), self._shards[number])[0]
        row["images"] = [self._photo(image) for image in row["images"] or []]
        return row

    def shard_of(self, index: int) -> Path:
        """The file that holds row `index`."""
        return self._shards[bisect.bisect_right(self._ends, index)]

    def batches(self, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Rows in order, some thousand at a time, with these columns only; "images" stay relative to the folder."""
        for batch, shard in zip(self._batches, self._shards):
            yield python_values(batch.select(list(columns)), shard)

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [row[name] for rows in self.batches([name]) for row in rows]

    def longest(self, name: str) -> int:
        """The most bytes that a value of a text column has, or the most items of a column of lists; 0 where all are null."""
        import pyarrow.compute as compute  # slow to import

        most = 0
        for batch in self._batches:
            column = batch.column(name)
            lengths = column.value_lengths() if pa.types.is_list(column.type) else compute.binary_length(column)
            most = max(most, compute.max(lengths).as_py() or 0)
        return most

    def image_sizes(self) -> Iterator[ImageSizes]:
        """The sizes of all photos, in the order of rows, some thousand rows at a time.

        They come from the catalogue's own column; where it has none, from the photos' headers, read by threads.
        """
        if self.has_sizes:
            yield from map(self._stored_sizes, self._batches)
        else:
            yield from prefetch(self._sizes_of_headers, self._batches, ahead=4, threads=4)

    def _stored_sizes(self, batch: pa.RecordBatch) -> ImageSizes:
        stored = batch.column(SIZES)
        flat = stored.flatten()
        sizes = np.stack([side.fill_null(0).to_numpy(zero_copy_only=False) for side in flat.flatten()], axis=1).astype(np.int64)
        if flat.null_count:  # unreadable when the catalogue was written; perhaps not now
            images = batch.column("images").flatten()
            for i in np.flatnonzero(sizes[:, 0] == 0):
                sizes[i] = self._size(images[i].as_py())
        return ImageSizes(stored.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), sizes)

    def _sizes_of_headers(self, batch: pa.RecordBatch) -> ImageSizes:
        images = [paths or [] for paths in batch.column("images").to_pylist()]
        sizes = [self._size(path) for paths in images for path in paths]
        return ImageSizes(np.array([len(paths) for paths in images], np.int64), np.array(sizes, np.int64).reshape(-1, 2))

    def _size(self, image: str) -> tuple[int, int]:
        try:
            return photo_size(self._photo(image))
        except PhotoError:
            return 0, 0

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas DataFrame: the columns of a row, "images" as lists of absolute paths."""
        frame: pd.DataFrame = pa.Table.from_batches(self._batches).select(self.columns).to_pandas()
        folder = self.folder.resolve()
        frame["images"] = [[str(folder / image) for image in ([] if images is None else images)] for images in frame["images"]]
        return frame


class Catalogue:
    """An opened catalogue folder. `info` is the whole `catalogue.json`.

    Raises UserError if the folder is not a catalogue, or one of a format that this version does not read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "catalogue.json").is_file():
            raise UserError(f"{folder} is not a catalogue: it has no catalogue.json; make one with data.sample or data.ingest")
        path = self.folder / "catalogue.json"
        info = read_json(path, "catalogue")
        if isinstance(info, dict) and not is_format(info.get("format"), (FORMAT, FORMAT_WITH_TURNS)):
            raise UserError(
                f"{folder} has catalogue format {info.get('format')!r}, this version reads {FORMAT} and {FORMAT_WITH_TURNS}; "
                "make it again"
            )
        self.info = check_info(info, path)
        try:
            self.task = Task.from_dict(self.info["task"])
            check_kinds(self.task)
        except UserError as error:
            raise UserError(f"catalogue {path}: {error}") from None
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
        return Split(self.folder, name, entry["shards"], entry["rows"], self.task)

    def to_pandas(self, split: str | None = None) -> pd.DataFrame:
        """The rows of a split as a pandas DataFrame, or of all splits with a first column "split".

        Columns: "id", "images" (lists of absolute paths), the task's fields (numbers as float64, a missing value as
        NaN) and any extra columns; a column of the catalogue that is itself called "split" is left out.
        Raises UserError where `split` does not exist or is empty.

        For instance `Catalogue("shop").to_pandas("train").groupby("category")["price"].median()`.
        """
        if split is not None:
            return self.split(split).to_pandas()
        import pandas as pd

        names = [name for name, entry in self.info["splits"].items() if entry["rows"]]
        frames = [self.split(name).to_pandas().drop(columns="split", errors="ignore") for name in names]
        for name, frame in zip(names, frames):
            frame.insert(0, "split", name)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["split", "id", "images"])


def iterate(split: Split) -> Iterator[dict[str, Any]]:
    """Rows of a split in order."""
    for index in range(len(split)):
        yield split[index]
