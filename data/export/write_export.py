"""Write a catalogue as Parquet shards with its photos inside, a card, and `export.json`. The same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from mlx_phi3v import __version__
from mlx_phi3v.catalogue import PRODUCT, SIZES, Catalogue, Split, iterate
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_folder, write_json, write_text
from mlx_phi3v.hub.contents import CARD_FILE, EXPORT_FILE
from mlx_phi3v.progress import Progress

from ..writer import RowsFingerprint, photo_name
from .dataset_card import Counted, dataset_card
from .export_record import FORMAT, ExportRecord, SplitFiles, photo_suffix

_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1000  # of a row group: what a reader holds in memory
_PHOTO = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])  # as `datasets.Image` is stored


def write_export(
    catalogue: Catalogue, output: Path, *, licence: str | None = None, shard_bytes: int = 500_000_000, as_json: bool = False
) -> ExportRecord:
    """Write the folder; its record. Raises UserError where a photo is missing, and where `output` is not empty."""
    found = {name: entry["rows"] for name, entry in catalogue.info["splits"].items() if entry["rows"]}
    if not found:
        raise UserError(f"{catalogue.folder} has no rows to export")
    columns = _columns(catalogue.split(next(iter(found))))
    counted, fingerprint = Counted(), RowsFingerprint(tuple(columns))
    splits: dict[str, SplitFiles] = {}
    task = catalogue.task.to_dict()
    with atomic_folder(output) as folder, Progress("exporting", sum(found.values()), as_json=as_json) as progress:
        for name, rows in found.items():
            shards = _Shards(folder, name, catalogue.split(name), shard_bytes)
            for row in shards.write():
                fingerprint.add(name, row)
                counted.add(name, row)
                progress.advance()
            splits[name] = SplitFiles(rows, shards.close())
        record = ExportRecord(
            FORMAT, catalogue.info["name"], task, catalogue.fingerprint, fingerprint.hexdigest(task), splits, __version__,
            licence, shard_bytes,
        )  # fmt: skip
        write_json(folder / EXPORT_FILE, msgspec.to_builtins(record))
        write_text(folder / CARD_FILE, dataset_card(catalogue.task, record, columns, counted))
    return record


class _Shards:
    """Writes one split, shard after shard; they get their names, which hold their number, at the end."""

    def __init__(self, folder: Path, name: str, split: Split, shard_bytes: int) -> None:
        self.folder, self.name, self.split, self.most = folder / "data", name, split, shard_bytes
        self.folder.mkdir(exist_ok=True)
        self.schema = _schema(split)
        self.paths: list[Path] = []
        self._writer: Any = None
        self._pending: list[dict[str, Any]] = []
        self._held = self._written = 0  # bytes of photos: of what is pending, of the open shard

    def write(self) -> Iterator[dict[str, Any]]:
        """Write all rows, giving each on, its photos by their names in a catalogue."""
        for row in iterate(self.split):
            photos: list[dict[str, Any]] = [
                {"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in row["images"]
            ]
            size = sum(len(photo["bytes"]) for photo in photos)
            if self._written + self._held and self._written + self._held + size > self.most:
                self._end_shard()
            self._pending.append({name: row.get(name) for name in self.schema.names} | {"images": photos})
            self._held += size
            if self._held >= _GROUP_BYTES or len(self._pending) >= _GROUP_ROWS:
                self._flush()
            yield row | {"images": [photo_name(photo["bytes"], photo_suffix(photo["path"])) for photo in photos]}

    def _flush(self) -> None:
        import pyarrow.parquet as parquet

        if not self._pending:
            return
        if self._writer is None:
            self.paths.append(self.folder / f"{self.name}-{len(self.paths):05d}")
            self._writer = parquet.ParquetWriter(str(self.paths[-1]), self.schema)
        self._writer.write_table(pa.Table.from_pylist(self._pending, schema=self.schema))
        self._written, self._held, self._pending = self._written + self._held, 0, []

    def _end_shard(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written = None, 0

    def close(self) -> list[str]:
        """End the last shard; the names of all, relative to the folder."""
        self._end_shard()
        names = []
        for path in self.paths:
            path.rename(whole := path.with_name(f"{path.name}-of-{len(self.paths):05d}.parquet"))
            names.append(f"data/{whole.name}")
        return names


def _columns(split: Split) -> dict[str, str]:
    """The columns that make a catalogue's content, with their types."""
    return {field.name: str(field.type) for field in split.schema if field.name not in (SIZES, PRODUCT)}


def _schema(split: Split) -> pa.Schema:
    """The split's columns with photos inside, and in the metadata what `datasets` calls them."""
    import datasets

    stored = split.schema
    fields = [pa.field(field.name, pa.list_(_PHOTO) if field.name == "images" else field.type) for field in stored]
    plain = pa.schema([field for field in fields if field.name != SIZES])
    features = datasets.Features.from_arrow_schema(plain)
    features["images"] = datasets.List(datasets.Image())
    described = json.dumps({"info": {"features": features.to_dict()}}, sort_keys=True)
    return plain.with_metadata({"huggingface": described})
