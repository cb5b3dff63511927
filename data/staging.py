"""From raw rows to checked rows, a piece of the source at a time; what worker processes run.

A finished piece is a file under the work folder, so a run that was killed goes on after the last whole one:
    pieces/000012.rejected.jsonl   the rows left out: row, reason, value, place
    pieces/000012.arrow            the rows kept; its appearance says that the piece is done
    catalogue/images/ab/ab12...    their pictures, where the finished catalogue has them
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import is_missing

from .catalogue import store_picture
from .mapping import FieldMapping, MappedField
from .near_duplicates import picture_print
from .pictures import CleanPicture, PictureError, PictureLimits, clean_picture, picture_references, reference_bytes
from .prices import PriceError, parse_price
from .sources import SPLIT_NAMES, RawRow
from .store import Store, write_whole
from .tables import Fault
from .text import normalise

_PIECE_ROWS = 1000
_PIECE_BYTES = 16_000_000
# Columns of a staged piece that the catalogue does not have.
ROW, SPLIT, CODE, PRINTS, CHANGED, LEFT_OUT = "_row", "_split", "_code", "_prints", "_changed", "_left_out"


class RejectedError(Exception):
    """A row that is left out; `reason` is a short fixed word, `value` what was wrong."""

    def __init__(self, reason: str, value: Any = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = str(value)[:200]


@dataclass(frozen=True)
class Stage:
    """All that a worker needs to check rows. `extras` are the carried columns: name in the catalogue -> source column."""

    work: Path
    mapping: FieldMapping
    extras: Mapping[str, str]
    schema: pa.Schema
    limits: PictureLimits
    pictures_per_row: int
    question: str | None  # chat rows must ask this; None: any
    store: Store
    near_duplicates: bool = True

    def piece_path(self, number: int) -> Path:
        """The file of a finished piece."""
        return self.work / "pieces" / f"{number:06d}.arrow"

    def rejected_path(self, number: int) -> Path:
        """The rejected rows of a piece."""
        return self.work / "pieces" / f"{number:06d}.rejected.jsonl"


def stage_schema(mapping: FieldMapping, extras: Mapping[str, pa.DataType]) -> pa.Schema:
    """Columns of a staged piece: those of the catalogue and what splitting needs."""
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("images", pa.list_(pa.string()))]
    columns += [(item.name, pa.float64() if item.kind == "number" else pa.string()) for item in mapping.fields]
    columns += list(extras.items())
    columns += [(ROW, pa.int64()), (SPLIT, pa.string()), (CODE, pa.string())]
    columns += [(PRINTS, pa.list_(pa.binary())), (CHANGED, pa.int32()), (LEFT_OUT, pa.int32())]
    return pa.schema(columns)


def pieces(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Cut rows into pieces of bounded number and size, the same ones at every run."""
    piece: list[RawRow] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += sum(_size(value) for value in row.values.values()) if isinstance(row.values, dict) else 0
        if len(piece) >= _PIECE_ROWS or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _size(value: Any) -> int:
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(item) for item in value.values())
    return sum(_size(item) for item in value) if isinstance(value, list) else 0


def stage_all(stage: Stage, rows: Iterable[RawRow], processes: int, advance: Callable[[int], None]) -> int:
    """Stage all rows with so many processes -> the number of pieces. `advance` hears of every piece's rows.

    Raises UserError where a worker process dies.
    """
    (stage.work / "pieces").mkdir(parents=True, exist_ok=True)
    count = 0
    running: dict[Future[Any], int] = {}
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (stage,)) if processes > 1 else None
    try:
        for count, piece in enumerate(pieces(rows), 1):
            if stage.piece_path(count - 1).exists():
                advance(len(piece))
            elif pool is None:
                stage_piece(stage, count - 1, piece)
                advance(len(piece))
            else:
                running[pool.submit(_work, count - 1, piece)] = len(piece)
                # A few pieces ahead keep the workers busy; more would only fill memory.
                _collect(running, 2 * processes - 1, advance)
        _collect(running, 0, advance)
    except BrokenProcessPool:
        raise UserError("a worker process died, most likely for want of memory; start again with fewer --processes") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return count


def _collect(running: dict[Future[Any], int], at_most: int, advance: Callable[[int], None]) -> None:
    while len(running) > at_most:
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            advance(running.pop(future))


_stage: Stage | None = None


def _start_worker(stage: Stage) -> None:
    global _stage
    _stage = stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker does not notice when its parent is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int, rows: Sequence[RawRow]) -> None:
    assert _stage is not None
    stage_piece(_stage, number, rows)


def stage_piece(stage: Stage, number: int, rows: Sequence[RawRow]) -> tuple[int, int]:
    """Check the rows of one piece and write it -> (rows kept, rows rejected)."""
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for row in rows:
        try:
            kept.append(check_row(stage, row))
        except RejectedError as error:
            rejected.append({"row": row.number, "reason": error.reason, "value": error.value, "place": row.place})
    write_whole(stage.rejected_path(number), "".join(json.dumps(item) + "\n" for item in rejected).encode())
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, stage.schema) as writer:
        writer.write_table(pa.Table.from_pylist(kept, schema=stage.schema))
    write_whole(stage.piece_path(number), buffer.getvalue())
    return len(kept), len(rejected)


def check_row(stage: Stage, row: RawRow) -> dict[str, Any]:
    """One row as staged, its pictures stored. Raises RejectedError with the first thing wrong."""
    values = row.values
    if isinstance(values, Fault):
        raise RejectedError(values)
    mapping = stage.mapping
    if stage.question is not None and values.get("question") != stage.question:
        raise RejectedError("other_question", values.get("question"))
    staged: dict[str, Any] = {"id": f"{row.number:07d}", ROW: row.number, SPLIT: _split(mapping, row)}
    staged |= {field.name: _field_value(field, values.get(field.column)) for field in mapping.fields}
    if all(staged[field.name] is None for field in mapping.fields):
        raise RejectedError("no_field_has_a_value")
    code = values.get(mapping.code) if mapping.code else None
    staged[CODE] = None if is_missing(code) else normalise(str(code))
    staged |= {name: _carried(values.get(column), stage.schema.field(name).type) for name, column in stage.extras.items()}
    pictures = _pictures(stage, row, values) if mapping.images else []
    staged["images"] = [store_picture(stage.work / "catalogue", picture.data, picture.suffix) for picture in pictures]
    staged[PRINTS] = [picture_print(picture.image) if stage.near_duplicates else b"" for picture in pictures]
    staged[CHANGED] = sum(picture.changed for picture in pictures)
    staged[LEFT_OUT] = len(list(row_references(mapping, values))) - len(pictures)
    return staged


def _split(mapping: FieldMapping, row: RawRow) -> str | None:
    if mapping.split is None:
        return row.split
    assert not isinstance(row.values, Fault)
    value = row.values.get(mapping.split)
    if is_missing(value):
        raise RejectedError("split_missing")
    name = SPLIT_NAMES.get(str(value).strip().lower())
    if name is None:
        raise RejectedError("split_unknown", value)
    return name


def _field_value(field: MappedField, value: Any) -> str | float | None:
    if field.kind != "number":
        text = None if is_missing(value) else normalise(value if isinstance(value, str) else str(value))
        if not text and field.required:
            raise RejectedError(f"{field.name}_missing")
        return text or None
    if is_missing(value):
        if field.required:
            raise RejectedError(f"{field.name}_missing")
        return None
    try:
        return float(parse_price(value, currency=field.currency, decimal=field.decimal).amount)
    except PriceError as error:
        raise RejectedError(error.reason, value) from None


def _carried(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    # A lone surrogate, as broken JSON escapes make it, cannot be stored as UTF-8.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def row_references(mapping: FieldMapping, values: Mapping[str, Any]) -> Iterator[Any]:
    """The pictures that a row names, in the order of the image columns."""
    for column in mapping.images:
        yield from picture_references(values.get(column))


def _pictures(stage: Stage, row: RawRow, values: Mapping[str, Any]) -> list[CleanPicture]:
    references = list(row_references(stage.mapping, values))
    if len(references) < stage.pictures_per_row:
        raise RejectedError("picture_missing_in_row" if not references else "too_few_pictures", len(references))
    root = Path(row.root) if row.root else None
    try:
        return [
            clean_picture(reference_bytes(reference, root, stage.store.read, stage.limits), stage.limits)
            for reference in references[: stage.pictures_per_row]
        ]
    except PictureError as error:
        raise RejectedError(error.reason, error.detail) from None
