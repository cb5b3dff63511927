"""From a source to a catalogue: plan, fetch photos, check rows, split, write. Each step continues where it was stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mlx_phi3v.documents import read_as
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import content_of, require_new, sweep, write_json
from mlx_phi3v.locks import locked
from mlx_phi3v.progress import Progress, note
from mlx_phi3v.text import printable

from ..writer import made_before
from .check_row import RowChecks, urls_to_fetch
from .chunk_store import ChunkStore
from .ingest_config import IngestConfig, check_settings
from .look_ahead import look_ahead
from .plan import IngestPlan, is_plain, make_plan
from .row_checks import row_checks
from .workers import check_rows
from .write_catalogue import write_catalogue

# What is in the folder that an ingest works in; `lock` is an earlier version's.
_WORK = ("plan.json", "downloads", "failures", "pieces", "splitting", "catalogue", "lock")


class _Plan(msgspec.Struct):
    """`plan.json`: which plan a folder's work is of."""

    digest: str


def ingest(settings: IngestConfig) -> dict[str, Any]:
    """Make the catalogue of `settings` -> its `catalogue.json`.

    A catalogue that an earlier run made by the same plan stays as it is. Raises UserError for a wrong source, mapping or
    setting, where no row can be used, and where another process is writing `output`.
    """
    check_settings(settings)
    output = settings.output
    if is_plain(settings) and (restored := _restored(settings)):
        return restored
    work = output.with_name(f".{output.name}.ingest")
    if not (output / "catalogue.json").is_file():
        require_new(output)
    plan = make_plan(settings)
    if plan.export:
        note(f"read as {plan.export}; --preset none turns that off")
    for found in plan.source.notes:
        note(found)
    if not work.exists() and (made := _made(output, plan)):
        return made
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(work, output, folder=True):
        _require_ours(work)
        if not (work / "catalogue").exists() and _is_filled(output):
            # An earlier run was killed before it removed its work, or another process has ended just now.
            shutil.rmtree(work)
        if made := _made(output, plan):
            return made
        _prepare_work(work, plan)
        checks, chunks = row_checks(settings, plan, work), ChunkStore(work, plan.schema)
        checks.store.sweep()
        look_ahead(plan, checks)
        rows = _fetch(settings, plan, checks)
        with Progress("checking rows", rows or plan.count, as_json=settings.json) as bar:
            count = check_rows(checks, chunks, plan.rows, settings.processes, bar.advance)
        info = _write(settings, plan, chunks, count)
    return info


def _restored(settings: IngestConfig) -> dict[str, Any] | None:
    """The catalogue that the source was exported from, made again; None where it is anything else."""
    from ..export.restore import exported_folder, restore

    folder = exported_folder(settings.source, settings.revision)
    return restore(folder, settings.output, source=settings.source, as_json=settings.json) if folder else None


def _write(settings: IngestConfig, plan: IngestPlan, chunks: ChunkStore, count: int) -> dict[str, Any]:
    """Write the catalogue and remove what it was made of; of a source without a row nothing is left to be looked up."""
    try:
        info = write_catalogue(settings, plan, chunks, count)
    except UserError:
        if not count:
            shutil.rmtree(chunks.work)
        raise
    shutil.rmtree(chunks.work)
    return info


def _is_filled(output: Path) -> bool:
    return output.is_dir() and any(output.iterdir())


def _made(output: Path, plan: IngestPlan) -> dict[str, Any] | None:
    """The catalogue that the same plan made before; None where `output` is free. Raises UserError for anything else there."""
    made = made_before(output, {"plan": plan.digest()})
    if made is None:
        require_new(output)
        return None
    note(f"{output} is there already, made of the same source with the same settings; nothing was done")
    return made


def _require_ours(work: Path) -> None:
    """Raises UserError where the folder to work in, which is removed in the end, holds what no ingest put there."""
    foreign = [name for name in content_of(work) if name not in _WORK or (name == "plan.json" and not _digest(work))]
    if foreign:
        raise UserError(
            f"{work} holds what no ingest wrote ({printable(foreign[0])}), and an ingest works there; move it elsewhere"
        )


def _digest(work: Path) -> str | None:
    """The digest of the plan that is worked on in a folder; None where there is none."""
    try:
        return read_as(work / "plan.json", "plan of an ingest", _Plan).digest
    except UserError:
        return None


def _prepare_work(work: Path, plan: IngestPlan) -> None:
    """Keep what an earlier run with the same plan has done; of another plan's work only the fetched photos."""
    digest = plan.digest()
    sweep(work)
    if _digest(work) != digest:
        for name in ("pieces", "catalogue", "failures"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / "plan.json", {"digest": digest})
    (work / "lock").unlink(missing_ok=True)  # of an earlier version


def _fetch(settings: IngestConfig, plan: IngestPlan, checks: RowChecks) -> int | None:
    """Fetch the photos that good rows name by URL -> the number of rows, or None where none were looked at."""
    if not plan.mapping.images or plan.source.kind == "images":
        return None
    urls = _Urls(plan, checks)
    first = next(urls, None)
    if first is None:
        return urls.rows
    from .addresses import GuardedBackend
    from .download import Downloader, FetchCounts, FetchLimits

    limits = FetchLimits(
        settings.max_bytes, settings.connections, settings.per_host, settings.timeout, retries=settings.retries
    )
    backend = GuardedBackend(allow_private=settings.allow_private, allowed=settings.allow_hosts)
    began = time.monotonic()
    with Progress("fetching photos", plan.count, as_json=settings.json) as bar:

        def show(counts: FetchCounts) -> None:
            bar.advance(failed=counts.failed, per_second=counts.fetched / (time.monotonic() - began))

        Downloader(checks.store, limits, backend, show).run(_chain(first, urls))
    return urls.rows


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


class _Urls(Iterator[str]):
    """The URLs of a source's rows, in order; counts the rows as it goes."""

    def __init__(self, plan: IngestPlan, checks: RowChecks) -> None:
        self.rows = 0
        self._found = self._read(plan, checks)

    def _read(self, plan: IngestPlan, checks: RowChecks) -> Iterator[str]:
        for row in plan.rows:
            self.rows += 1
            try:
                yield from urls_to_fetch(checks, row)
            except MemoryError:
                raise
            except Exception:  # the check of the row rejects it, with the reason
                continue

    def __next__(self) -> str:
        return next(self._found)
