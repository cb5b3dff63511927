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
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .picture_store import write_whole
from .rows import RejectedError, check_row
from .sources import RawRow
from .stage import Stage

_PIECE_ROWS = 1000
_PIECE_BYTES = 16_000_000


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
