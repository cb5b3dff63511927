"""All rows of a source checked, a chunk at a time, by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.worker_context import WorkerPool, begin_worker

from .check_row import RejectedError, RowChecks, check_row
from .chunk_store import NOTES, ChunkStore
from .notes import Notes
from .sources import RawRow

_CHUNK_ROWS = 1000
_CHUNK_BYTES = 16_000_000


def cut_into_chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Cut rows into chunks of bounded number and size, the same ones at every run."""
    chunk: list[RawRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        if isinstance(row.values, dict):
            for value in row.values.values():
                size += len(value) if type(value) is str else _size(value)
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(value: Any) -> int:
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(item) for item in value.values())
    return sum(_size(item) for item in value) if isinstance(value, list) else 0


def check_rows(
    checks: RowChecks, chunks: ChunkStore, rows: Iterable[RawRow], processes: int, advance: Callable[[int], None]
) -> int:
    """Check all rows in `processes` processes -> the number of chunks. `advance` is called with each chunk's rows.

    Raises UserError where a worker process dies.
    """
    count = 0
    running: dict[Future[Any], int] = {}
    pool = WorkerPool(processes, _start_worker, (checks, chunks)) if processes > 1 else None
    try:
        for count, chunk in enumerate(cut_into_chunks(rows), 1):
            if chunks.is_done(count - 1):
                advance(len(chunk))
            elif pool is None:
                check_chunk(checks, chunks, count - 1, chunk)
                advance(len(chunk))
            else:
                running[pool.submit(_work, count - 1, chunk)] = len(chunk)
                # A few chunks ahead keep the workers busy; more would only fill memory.
                _collect(running, 2 * processes - 1, advance)
        _collect(running, 0, advance)
    except BrokenProcessPool:
        raise UserError("a worker process died, probably by lack of memory; start again with fewer --processes") from None
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


_task: tuple[RowChecks, ChunkStore] | None = None  # of a worker process


def _start_worker(checks: RowChecks, chunks: ChunkStore) -> None:
    global _task
    _task = checks, chunks
    begin_worker()


def _work(number: int, rows: Sequence[RawRow]) -> None:
    assert _task is not None
    check_chunk(*_task, number, rows)


def check_chunk(checks: RowChecks, chunks: ChunkStore, number: int, rows: Sequence[RawRow]) -> None:
    """Check the rows of one chunk and write it."""
    accepted: list[tuple[RawRow, dict[str, Any]]] = []
    rejected: list[dict[str, Any]] = []
    catalogue = chunks.catalogue
    for row in rows:
        try:
            accepted.append((row, _check(checks, row, catalogue)))
        except RejectedError as error:
            rejected.append(_rejected(row, error))
    table = chunks.table([checked for _, checked in accepted])
    if table is None:
        unfit = {row.number: row for row, checked in accepted if chunks.table([checked]) is None}
        wrong = RejectedError("row_unreadable", "a value does not fit its column")
        rejected = sorted([*rejected, *(_rejected(row, wrong) for row in unfit.values())], key=lambda item: int(item["row"]))
        accepted = [(row, checked) for row, checked in accepted if row.number not in unfit]
        table = chunks.table([checked for _, checked in accepted])
        assert table is not None
    notes = Notes()
    for row, checked in accepted:
        notes.add(checks.mapping, checked, row.number, row.place, checked.pop(NOTES))
    chunks.write(number, table, rejected, notes)


def _check(checks: RowChecks, row: RawRow, catalogue: Path) -> dict[str, Any]:
    """`check_row`, with a net: what it does not foresee rejects the row too, and the others go on."""
    try:
        return check_row(checks, row, catalogue)
    except (RejectedError, UserError, MemoryError, OSError):  # an OSError is the disk's: no row can be stored then
        raise
    except Exception as error:
        raise RejectedError("row_unreadable", f"{type(error).__name__}: {error}") from error


def _rejected(row: RawRow, error: RejectedError) -> dict[str, Any]:
    return {"row": row.number, "reason": error.reason, "value": error.value, "place": row.place}
