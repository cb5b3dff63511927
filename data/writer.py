"""Write a catalogue row by row in constant memory; `mlx_phi3v.catalogue` describes the format."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue import FORMAT, FORMAT_WITH_TURNS, PRODUCT, SIZES, SIZES_TYPE, SPLITS, Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_folder, atomic_path, require_new, sha256_bytes, write_json
from mlx_phi3v.photo import PhotoError, photo_size
from mlx_phi3v.task import Task, is_missing
from mlx_phi3v.text import printable
from mlx_phi3v.turns import TURNS

_BATCH_ROWS = 1000


def _schema(task: Task, extra: Mapping[str, pa.DataType]) -> pa.Schema:
    columns = [pa.field("id", pa.string()), pa.field("images", pa.list_(pa.string()))]
    columns += [pa.field(f.name, pa.float64() if f.kind == "number" else pa.string()) for f in task.fields]
    taken = {column.name for column in columns}
    return pa.schema(columns + [pa.field(name, kind) for name, kind in extra.items() if name not in taken])


def _with_found_columns(schema: pa.Schema, products: bool) -> pa.Schema:
    """Columns that are found from the others: they change neither the content of a catalogue nor its fingerprint."""
    found = [pa.field(SIZES, SIZES_TYPE), *([pa.field(PRODUCT, pa.string())] if products else [])]
    return pa.schema([*schema, *(field for field in found if field.name not in schema.names)])


def store_photo(folder: Path, data: bytes, suffix: str) -> str:
    """Store a photo's bytes once under `folder`/images, by content; the path relative to `folder`.

    Several processes may store the same photo at once. Nothing waits for the disk: a catalogue of a million photos has
    no time for that, and what is not in place yet is made again after a power cut.
    """
    relative = photo_name(data, suffix)
    path = folder / relative
    if not path.exists():
        with atomic_path(path, shared=True, sync=False) as temporary:
            temporary.write_bytes(data)
    return relative


def photo_name(data: bytes, suffix: str) -> str:
    """The path of a photo in its catalogue, by its content."""
    digest = sha256_bytes(data)
    return f"images/{digest[:2]}/{digest}{suffix}"


class RowsFingerprint:
    """The fingerprint of a catalogue, built up row by row: over the task, and each split's rows in their order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names  # the columns that count
        self._hashes: dict[str, Any] = {}

    def add(self, split: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Add a row; its columns that count, with None for what is missing."""
        clean = {name: None if is_missing(value := row.get(name)) else value for name in self._names}
        clean["images"] = list(row.get("images") or [])
        line = json.dumps(clean, sort_keys=True, ensure_ascii=False, default=str)
        self._hashes.setdefault(split, hashlib.sha256()).update(line.encode() + b"\n")
        return clean

    def hexdigest(self, task: Mapping[str, Any]) -> str:
        """The fingerprint so far. task: as `Task.to_dict` gives it."""
        digest = hashlib.sha256(json.dumps(task, sort_keys=True).encode())
        for split in _in_order(self._hashes):
            digest.update(split.encode() + self._hashes[split].digest())
        return digest.hexdigest()


def _in_order(splits: Iterable[str]) -> list[str]:
    return sorted(splits, key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))


def made_before(output: Path, entries: Mapping[str, Any]) -> dict[str, Any] | None:
    """`catalogue.json` of `output`, where a whole catalogue with these entries is there; None where anything else is.

    So a command knows what it made itself, from the same source with the same settings, before it was killed.
    """
    try:
        info = Catalogue(output).info
    except UserError:
        return None
    shards = [shard for entry in info["splits"].values() for shard in entry["shards"]]
    same = all(info.get(name) == value for name, value in entries.items())
    return dict(info) if same and all((output / shard).is_file() for shard in shards) else None


class CatalogueWriter:
    """Writes a catalogue row by row in constant memory; `output` appears only when the block ends well.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with CatalogueWriter(f"{folder}/shop", Task(), name="shop", source={}, settings={}) as writer:
    ...         writer.add("train", {"id": "p1", "images": [], "title": "Wool scarf", "full_price": 470.0})
    ...     writer.info["splits"]["train"]["rows"]
    1

    What is put into `info` before the block ends is written to `catalogue.json`. With `folder` the catalogue is built
    there, around the photos it holds already, and an error leaves it; it must be on the disk of `output`. With `products`
    rows have their product under `catalogue.PRODUCT`.

    Raises UserError where `output` exists and is not empty, or another process is writing it.
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
        products: bool = False,
    ) -> None:
        self.output = Path(output)
        require_new(self.output)
        self.task = task
        self.info: dict[str, Any] = {
            "format": FORMAT_WITH_TURNS if TURNS in (extra or {}) else FORMAT,
            "name": printable(name).replace("/", "_"),  # as a folder may be called
            "source": dict(source),
            "settings": dict(settings),
            "task": task.to_dict(),
        }
        self.schema = _schema(task, extra or {})
        self._stored = _with_found_columns(self.schema, products)
        # Asked for every row: pyarrow makes a new list of names each time.
        self._names, self._known = tuple(self.schema.names), frozenset(self._stored.names)
        self._found = [name for name in (PRODUCT,) if name in self._known and name not in self._names]
        self._size = functools.lru_cache(maxsize=10_000)(self._read_size)
        self.shard_rows = shard_rows
        with contextlib.ExitStack() as place:
            self.folder = folder or place.enter_context(atomic_folder(self.output))
            self._own_folder = folder is None
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
            self._place = place.pop_all()  # puts the folder in place at its end, or removes it at an error
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._shards, self._rows = dict[str, list[str]](), dict[str, int]()
        self._open: dict[str, tuple[pa.RecordBatchStreamWriter, int]] = {}
        self._fingerprint = RowsFingerprint(self._names)

    def add_image(self, data: bytes, suffix: str) -> str:
        """Store a photo's bytes once, by content; the path to put into a row's "images"."""
        return store_photo(self.folder, data, suffix)

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Append one row. Columns outside the schema are an error of the caller.

        The sizes of its photos are read from their files, unless the row has them under `catalogue.SIZES`.
        """
        if not row.keys() <= self._known:
            raise KeyError(f"row has columns outside the schema: {sorted(row.keys() - self._known)}")
        clean = self._fingerprint.add(split, row)
        self._rows[split] = self._rows.get(split, 0) + 1
        clean |= {name: row.get(name) for name in self._found}
        if SIZES not in self._names:
            clean[SIZES] = row.get(SIZES) or [self._size(image) for image in row.get("images") or []]
        pending = self._pending.setdefault(split, [])
        pending.append(clean)
        if len(pending) >= _BATCH_ROWS:
            self._flush(split)

    def _read_size(self, image: str) -> dict[str, int] | None:
        try:
            width, height = photo_size(self.folder / image)
        except PhotoError:
            return None  # opening it raises the error that names the cause
        return {"width": width, "height": height}

    def _flush(self, split: str) -> None:
        rows = self._pending.get(split)
        if not rows:
            return
        if split not in self._open:
            names = self._shards.setdefault(split, [])
            names.append(f"{split}-{len(names):05d}.arrow")
            self._open[split] = (pa.ipc.new_stream(str(self.folder / names[-1]), self._stored), 0)
        writer, written = self._open[split]
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=self._stored))
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
        self.info["schema"] = {column.name: str(column.type) for column in self.schema}
        self.info["splits"] = {s: {"rows": self._rows[s], "shards": self._shards[s]} for s in _in_order(self._rows)}
        self.info["fingerprint"] = self._fingerprint.hexdigest(self.info["task"])
        write_json(self.folder / "catalogue.json", self.info)
        if not self._own_folder:
            require_new(self.output)
            self.output.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder, self.output)
        self._place.close()

    def __enter__(self) -> CatalogueWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with self._place:  # an error here too removes what is not whole
                self.close()
            return
        for writer, _ in self._open.values():
            with contextlib.suppress(Exception):
                writer.close()
        self._place.__exit__(kind, error, trace)
