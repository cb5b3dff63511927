"""Checked rows on their way to the catalogue: files in the work folder, a chunk of the source each.

    pieces/000012.rejected.jsonl   the rows rejected: row, reason, value, place
    pieces/000012.notes.json       what happened to values of the rows accepted, see notes.py
    pieces/000012.arrow            the rows accepted; once it exists the chunk is done
    catalogue/images/ab/ab12...    their photos, where the finished catalogue has them

So a killed run continues after the last whole chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue import SIZES, SIZES_TYPE

from .download_store import write_whole
from .mapping import FieldMapping
from .notes import Notes

# Columns of a chunk that the catalogue does not have.
ROW, SPLIT, CODE, GROUP = "_row", "_split", "_code", "_group"
FINGERPRINTS, CHANGED, LEFT_OUT = "_prints", "_changed", "_left_out"
NOTES = "_notes"  # of a checked row alone, no column
HIDDEN = (ROW, SPLIT, CODE, GROUP, FINGERPRINTS, CHANGED, LEFT_OUT)
_READ_ROWS = 1000


def chunk_schema(mapping: FieldMapping, extras: Mapping[str, pa.DataType]) -> pa.Schema:
    """Columns of a chunk: those of the catalogue and what splitting needs."""
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("images", pa.list_(pa.string()))]
    columns += [(item.name, pa.float64() if item.kind == "number" else pa.string()) for item in mapping.fields]
    columns += [*extras.items(), (SIZES, SIZES_TYPE)]
    columns += [(ROW, pa.int64()), (SPLIT, pa.string()), (CODE, pa.string()), (GROUP, pa.string())]
    columns += [(FINGERPRINTS, pa.list_(pa.binary())), (CHANGED, pa.int32()), (LEFT_OUT, pa.int32())]
    return pa.schema(columns)


@dataclass(frozen=True)
class ChunkStore:
    """The chunks of one ingest, in its work folder."""

    work: Path
    schema: pa.Schema

    @property
    def catalogue(self) -> Path:
        """Where the catalogue is built, around the photos stored already."""
        return self.work / "catalogue"

    def is_done(self, number: int) -> bool:
        """Whether an earlier run finished this chunk."""
        return self._path(number).exists()

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table | None:
        """Rows as they are stored; None where they cannot be: every value as its column's type, every text as UTF-8."""
        try:
            return pa.Table.from_pylist(list(rows), schema=self.schema)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return None

    def write(self, number: int, accepted: pa.Table, rejected: Sequence[Mapping[str, Any]], notes: Notes) -> None:
        """Write one chunk, its accepted rows last: their file marks it as done."""
        write_whole(self._notes_path(number), notes.to_bytes())
        write_whole(self._rejected_path(number), "".join(json.dumps(item) + "\n" for item in rejected).encode())
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_file(buffer, self.schema) as writer:
            writer.write_table(accepted)
        write_whole(self._path(number), buffer.getvalue())

    def rows(self, count: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The accepted rows of the first `count` chunks, in the source's order."""
        for number in range(count):
            with pa.memory_map(str(self._path(number))) as file:
                table = pa.ipc.open_file(file).read_all()
                for batch in (table.select(columns) if columns else table).to_batches(_READ_ROWS):
                    yield from batch.to_pylist()

    def rejected(self, count: int) -> Iterator[dict[str, Any]]:
        """The rejected rows of the first `count` chunks."""
        for number in range(count):
            for line in self._rejected_path(number).read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def notes(self, count: int) -> Iterator[Notes]:
        """What was noted of the first `count` chunks, chunk by chunk."""
        for number in range(count):
            if self._notes_path(number).exists():  # a run of an earlier version wrote none
                yield Notes.from_bytes(self._notes_path(number).read_bytes())

    def _notes_path(self, number: int) -> Path:
        return self.work / "pieces" / f"{number:06d}.notes.json"

    def _path(self, number: int) -> Path:
        return self.work / "pieces" / f"{number:06d}.arrow"

    def _rejected_path(self, number: int) -> Path:
        return self.work / "pieces" / f"{number:06d}.rejected.jsonl"
