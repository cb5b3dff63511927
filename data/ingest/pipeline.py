"""From a source to a catalogue: plan, fetch photos, check rows, split, write. Each step continues where it was stopped."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import write_json
from mlx_phi3v.progress import Progress
from mlx_phi3v.text import printable

from .check_row import RowChecks, row_references
from .chunk_store import ChunkStore
from .download_store import DownloadStore
from .ingest_config import IngestConfig, check_settings
from .photos import PhotoLimits, as_url
from .plan import IngestPlan, make_plan
from .workers import check_rows
from .write_catalogue import write_catalogue


def ingest(settings: IngestConfig) -> dict[str, Any]:
    """Make the catalogue of `settings` -> its `catalogue.json`.

    Raises UserError for a wrong source, mapping or setting, and where no row can be used.
    """
    check_settings(settings)
    output = settings.output
    work = output.with_name(f".{output.name}.ingest")
    if _is_finished(output, work):
        shutil.rmtree(work)
        return dict(Catalogue(output).info)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty; choose another folder or remove it first")
    plan = make_plan(settings)
    for note in plan.source.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    with _locked(work):
        _prepare_work(work, plan)
        checks, chunks = _row_checks(settings, plan, work), ChunkStore(work, plan.schema)
        rows = _fetch(settings, plan, checks.store)
        with Progress("checking rows", rows or plan.source.count, as_json=settings.json) as bar:
            count = check_rows(checks, chunks, plan.source.rows(), settings.processes, bar.advance)
        info = write_catalogue(settings, plan, chunks, count)
        shutil.rmtree(work)
    return info


def _locked(work: Path) -> Any:
    import filelock

    work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / "lock")
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another ingest is writing to {work}; wait for it or choose another --output") from None


def _is_finished(output: Path, work: Path) -> bool:
    """Whether a run was stopped between putting the catalogue in place and removing its work."""
    return (output / "catalogue.json").is_file() and (work / "plan.json").is_file() and not (work / "catalogue").exists()


def _prepare_work(work: Path, plan: IngestPlan) -> None:
    """Keep what an earlier run with the same plan has done; of another plan's work only the fetched photos."""
    digest = plan.digest()
    try:
        same = json.loads((work / "plan.json").read_text(encoding="utf-8")).get("digest") == digest
    except (OSError, ValueError):
        same = False
    if not same:
        for name in ("pieces", "catalogue", "failures"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / "plan.json", {"digest": digest})


def _row_checks(settings: IngestConfig, plan: IngestPlan, work: Path) -> RowChecks:
    asks = plan.source.kind == "chat" and settings.prompt is None
    return RowChecks(
        mapping=plan.mapping,
        extras=plan.extras,
        schema=plan.schema,
        limits=PhotoLimits(settings.max_pixels, settings.min_side, settings.max_bytes),
        photos_per_row=plan.mapping.photos_per_row(),
        question=plan.mapping.prompt if asks else None,
        store=DownloadStore(settings.downloads or work / "downloads", work / "failures"),
        near_duplicates=settings.near_duplicates,
    )


def _fetch(settings: IngestConfig, plan: IngestPlan, store: DownloadStore) -> int | None:
    """Fetch the photos that rows name by URL -> the number of rows, or None where none were looked at."""
    if not plan.mapping.images or plan.source.kind == "images":
        return None
    urls = _Urls(plan)
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
    with Progress("fetching photos", plan.source.count, as_json=settings.json) as bar:

        def show(counts: FetchCounts) -> None:
            bar.advance(failed=counts.failed, per_second=counts.fetched / (time.monotonic() - began))

        Downloader(store, limits, backend, show).run(_chain(first, urls))
    return urls.rows


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _row_urls(plan: IngestPlan, values: Mapping[str, Any]) -> list[str]:
    try:
        return [url for url in map(as_url, row_references(plan.mapping, values)) if url]
    except MemoryError:
        raise
    except Exception:  # the check of the row rejects it, with the reason
        return []


class _Urls(Iterator[str]):
    """The URLs of a source's rows, in order; counts the rows as it goes."""

    def __init__(self, plan: IngestPlan) -> None:
        self.rows = 0
        self._found = self._read(plan)

    def _read(self, plan: IngestPlan) -> Iterator[str]:
        for row in plan.source.rows():
            self.rows += 1
            if isinstance(row.values, dict):
                yield from _row_urls(plan, row.values)

    def __next__(self) -> str:
        return next(self._found)
