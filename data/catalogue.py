"""The one format for product data: Arrow shards, pictures stored by content hash, `catalogue.json`.

    DIR/catalogue.json            format, task, splits, counts, source, settings, fingerprint
    DIR/train-00000.arrow         columns: id, images (paths relative to DIR), the task's fields, extra columns
    DIR/images/ab/ab12....png     a picture, named by the SHA-256 of its bytes
    DIR/rejected.csv              what data.ingest left out and why, where it made the catalogue

The shards are Arrow streams, memory-mapped here and readable by `datasets.load_dataset("arrow", data_files=...)`.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json, sha256_bytes, write_json
from mlx_phi3v.task import Task, is_missing

FORMAT = 1
SPLITS = ("train", "validation", "test")
_BATCH_ROWS = 1000


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


def _schema(task: Task, extra: Mapping[str, pa.DataType]) -> pa.Schema:
    columns = [pa.field("id", pa.string()), pa.field("images", pa.list_(pa.string()))]
    columns += [pa.field(f.name, pa.float64() if f.kind == "number" else pa.string()) for f in task.fields]
    taken = {column.name for column in columns}
    return pa.schema(columns + [pa.field(name, kind) for name, kind in extra.items() if name not in taken])


def store_picture(folder: Path, data: bytes, suffix: str) -> str:
    """Store a picture's bytes once under `folder`/images, by content; the path relative to `folder`.

    Several processes may store the same picture at once.
    """
    digest = sha256_bytes(data)
    relative = f"images/{digest[:2]}/{digest}{suffix}"
    path = folder / relative
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{digest}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return relative


class CatalogueWriter:
    """Writes a catalogue row by row in constant memory; `output` appears only when the block ends well.

    >>> with CatalogueWriter(output, task, name="sample", source={...}, settings={...}) as writer:
    ...     image = writer.add_image(png_bytes, ".png")
    ...     writer.add("train", {"id": "p1", "images": [image], "title": "Wool scarf", ...})

    What is put into `info` before the block ends stands in `catalogue.json`. With `folder` the catalogue is built
    there, around the pictures it holds already, and an error leaves it; it must be on the disk of `output`.

    Raises UserError where `output` exists and is not empty.
    """

    def __init__(
        self,
        output: Path | str,
        task: Task,
        *,
        name: str,
        source: Mapping[str, Any],
        settings: Mapping[str, Any],
        extra: Mapping[str, pa.DataType] | None = None,
        shard_rows: int = 50_000,
        folder: Path | None = None,
    ) -> None:
        self.output = Path(output)
        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise UserError(f"{output} exists and is not empty; choose another folder or remove it first")
        self.task = task
        self.info: dict[str, Any] = {
            "format": FORMAT,
            "name": name,
            "source": dict(source),
            "settings": dict(settings),
            "task": task.to_dict(),
        }
        self.schema = _schema(task, extra or {})
        self.shard_rows = shard_rows
        self._own_folder = folder is None
        self.folder = folder or self.output.with_name(f".{self.output.name}.{uuid.uuid4().hex[:8]}.tmp")
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._shards: dict[str, list[str]] = {}
        self._rows: dict[str, int] = {}
        self._open: dict[str, tuple[pa.RecordBatchStreamWriter, int]] = {}
        self._hashes: dict[str, Any] = {}

    def add_image(self, data: bytes, suffix: str) -> str:
        """Store a picture's bytes once, by content; the path to put into a row's "images"."""
        return store_picture(self.folder, data, suffix)

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Append one row. Columns outside the schema are an error of the caller."""
        unknown = set(row) - set(self.schema.names)
        if unknown:
            raise KeyError(f"row has columns outside the schema: {sorted(unknown)}")
        clean = {name: None if is_missing(value := row.get(name)) else value for name in self.schema.names}
        clean["images"] = list(row.get("images") or [])
        line = json.dumps(clean, sort_keys=True, ensure_ascii=False, default=str)
        self._hashes.setdefault(split, hashlib.sha256()).update(line.encode() + b"\n")
        self._rows[split] = self._rows.get(split, 0) + 1
        pending = self._pending.setdefault(split, [])
        pending.append(clean)
        if len(pending) >= _BATCH_ROWS:
            self._flush(split)

    def _flush(self, split: str) -> None:
        rows = self._pending.get(split)
        if not rows:
            return
        if split not in self._open:
            names = self._shards.setdefault(split, [])
            names.append(f"{split}-{len(names):05d}.arrow")
            self._open[split] = (pa.ipc.new_stream(str(self.folder / names[-1]), self.schema), 0)
        writer, written = self._open[split]
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=self.schema))
        self._open[split] = (writer, written + len(rows))
        self._pending[split] = []
        if written + len(rows) >= self.shard_rows:
            writer.close()
            del self._open[split]

    def close(self) -> None:
        """Finish the shards, write `catalogue.json` and put the folder in place."""
        for split in list(self._pending):
            self._flush(split)
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()
        order = sorted(self._rows, key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))
        self.info["schema"] = {column.name: str(column.type) for column in self.schema}
        self.info["splits"] = {s: {"rows": self._rows[s], "shards": self._shards[s]} for s in order}
        digest = hashlib.sha256(json.dumps(self.info["task"], sort_keys=True).encode())
        for split in order:
            digest.update(split.encode() + self._hashes[split].digest())
        self.info["fingerprint"] = digest.hexdigest()
        write_json(self.folder / "catalogue.json", self.info)
        if self.output.exists():
            self.output.rmdir()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.folder, self.output)

    def __enter__(self) -> CatalogueWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        for writer, _ in self._open.values():
            with contextlib.suppress(Exception):
                writer.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def iterate(split: Split) -> Iterator[dict[str, Any]]:
    """Rows of a split in order."""
    for index in range(len(split)):
        yield split[index]
