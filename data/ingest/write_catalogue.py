"""Split the checked rows and write them, with the report of rejected rows."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_phi3v.catalogue import PRODUCT
from mlx_phi3v.catalogue_checks import TURNS_TYPE
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_path
from mlx_phi3v.progress import Progress
from mlx_phi3v.text import csv_cell, printable, storable
from mlx_phi3v.turns import TURNS

from ..writer import CatalogueWriter
from .chunk_store import CHANGED, CODE, FINGERPRINTS, GROUP, HIDDEN, LEFT_OUT, ROW, SPLIT, ChunkStore
from .ingest_config import IngestConfig
from .notes import Notes, require_usable
from .plan import IngestPlan
from .published_csv import PublishedCsv
from .shared_photos import SharedPhotos, find_shared_photos, kept_rows, rejected_rows
from .splits import SplitRow, Splitter
from .summary import MISSING, category_report


def write_catalogue(settings: IngestConfig, plan: IngestPlan, chunks: ChunkStore, count: int) -> dict[str, Any]:
    """Split the rows of `count` chunks and write the catalogue -> its `catalogue.json`.

    Raises UserError if no row was accepted.
    """
    categories = [field.name for field in plan.mapping.fields if field.kind == "category"]
    shared = _shared_photos(plan, chunks, count)
    left_out = SharedPhotos({}) if settings.keep_shared_photos else shared
    rejected, notes = _write_rejected(chunks, count, left_out), _write_unread(chunks, count)
    require_usable(notes, plan.mapping, settings.source)
    splitter = Splitter(chunks.work / "splitting", settings.seed)
    products = _split(settings, splitter, chunks, count, categories, rejected, left_out)
    _remove_unused_photos(chunks.catalogue, splitter)
    with (
        _open_writer(settings, plan, chunks.catalogue, with_turns=has_turns(plan, notes)) as writer,
        Progress("writing", splitter.rows, as_json=settings.json) as bar,
    ):
        published = PublishedCsv(writer.folder, settings.output, plan) if settings.csv else None
        tally = _Tally(categories)
        hidden = HIDDEN if has_turns(plan, notes) else (*HIDDEN, TURNS)
        rows = kept_rows(chunks, count, left_out)
        for row, split, product in zip(rows, splitter.splits(), splitter.products(), strict=True):
            tally.add(row)
            shown = {name: value for name, value in row.items() if name not in hidden} | {PRODUCT: product}
            writer.add(split, shown)
            if published:
                published.add(split, shown)
            bar.advance(1)
        if published:
            published.close()
        writer.info |= {**tally.report(splitter, rejected), "products": products, "plan": plan.digest()}
        writer.info |= {"shared_photos": shared.report(kept=settings.keep_shared_photos), "values": notes.report()}
        splitter.close()
    return writer.info


def _shared_photos(plan: IngestPlan, chunks: ChunkStore, count: int) -> SharedPhotos:
    """The photos of many products; several questions about a photo are no contradiction."""
    judged = plan.mapping.images and plan.source.kind != "chat"
    return find_shared_photos(chunks, count, plan.task) if judged else SharedPhotos({})


def has_turns(plan: IngestPlan, notes: Notes) -> bool:
    """Whether a row has turns of its own; if none has, the catalogue is as it always was."""
    return plan.chat is not None and bool(notes.of("question"))


def _split(
    settings: IngestConfig,
    splitter: Splitter,
    chunks: ChunkStore,
    count: int,
    categories: Sequence[str],
    rejected: Counter[str],
    left_out: SharedPhotos,
) -> dict[str, Any]:
    """Assign every row to a split, rows of one product together -> the report of products."""
    shares = {name: share for name, share in (("validation", settings.validation), ("test", settings.test)) if share}
    with Progress("splitting", 3, as_json=settings.json) as bar:
        splitter.load(_split_rows(chunks, count, categories[0] if categories else None, left_out))
        bar.advance()
        if not splitter.rows:
            raise _nothing_left(settings.source, rejected, chunks.catalogue / "rejected.csv")
        links = splitter.join(near=settings.near_duplicates)
        bar.advance()
        splitter.assign(shares)
        report = splitter.report(links)
        bar.advance()
    return dataclasses.asdict(report)


def _split_rows(chunks: ChunkStore, count: int, category: str | None, left_out: SharedPhotos) -> Iterator[SplitRow]:
    columns = [ROW, "images", CODE, GROUP, SPLIT, FINGERPRINTS, *([category] if category else [])]
    for row in kept_rows(chunks, count, left_out, columns):
        contents = tuple((Path(image).stem, near) for image, near in zip(row["images"], row[FINGERPRINTS]))
        yield SplitRow(row[ROW], row[category] if category else None, row[CODE], row[SPLIT], contents, row[GROUP])


def _open_writer(settings: IngestConfig, plan: IngestPlan, folder: Path, *, with_turns: bool) -> CatalogueWriter:
    return CatalogueWriter(
        settings.output,
        plan.task,
        name=settings.output.name,
        source={"kind": plan.source.kind, "name": storable(plan.source.name), "identity": plan.source.identity},
        settings=dict(plan.settings) | {"mapping": plan.mapping.to_dict()},
        extra={name: plan.schema.field(name).type for name in plan.extras} | ({TURNS: TURNS_TYPE} if with_turns else {}),
        folder=folder,
        products=True,
    )


class _Tally:
    """Counts the rows as they are written."""

    def __init__(self, categories: Sequence[str]) -> None:
        self.changed = self.left_out = 0
        self.categories = {name: Counter[str]() for name in categories}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of a chunk."""
        self.changed += row[CHANGED]
        self.left_out += row[LEFT_OUT]
        for name, counts in self.categories.items():
            counts[row[name] or ""] += 1

    def report(self, splitter: Splitter, rejected: Counter[str]) -> dict[str, Any]:
        """The "counts" and "categories" of `catalogue.json`."""
        counts = {
            "read": splitter.rows + sum(rejected.values()),
            "kept": splitter.rows,
            "rejected": dict(rejected.most_common()),
            "pictures": splitter.photos,
            "pictures_changed": self.changed,
            "pictures_left_out": self.left_out,
        }
        return {"counts": counts, "categories": {name: category_report(c) for name, c in self.categories.items()}}


def _write_rejected(chunks: ChunkStore, count: int, left_out: SharedPhotos) -> Counter[str]:
    """Write `rejected.csv` -> reason -> rows."""
    reasons: Counter[str] = Counter()
    with atomic_path(chunks.catalogue / "rejected.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("row", "reason", "value", "place"))
        writer.writeheader()
        for item in itertools.chain(chunks.rejected(count), rejected_rows(chunks, count, left_out)):
            reasons[item["reason"]] += 1
            shown = {name: csv_cell(printable(item[name])) for name in ("value", "place")}
            writer.writerow(item | shown)
    return reasons


def _write_unread(chunks: ChunkStore, count: int) -> Notes:
    """Write `unread.csv`, where a value could not be read -> what was noted of all rows."""
    total = Notes()
    with atomic_path(chunks.catalogue / "unread.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("row", "field", "reason", "value", "place"))
        writer.writeheader()
        for notes in chunks.notes(count):
            total.merge(notes)
            for item in notes.unread:
                shown = {name: csv_cell(printable(item[name])) for name in ("value", "place")}
                writer.writerow(item | shown)
    if not total.of("unread"):
        (chunks.catalogue / "unread.csv").unlink()
    return total


def _nothing_left(source: str, rejected: Counter[str], path: Path) -> UserError:
    if not rejected:
        return UserError(f"{source} holds no rows")
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
    hint = f"; {MISSING}" if next(iter(rejected.most_common(1)))[0] == "picture_missing" else ""
    return UserError(f"no row of {source} can be used: {reasons}; {path} names each row{hint}")


def _remove_unused_photos(folder: Path, splitter: Splitter) -> None:
    """Delete photos that a killed run stored for rows that were not accepted in the end."""
    for path in (folder / "images").glob("*/*"):
        if not splitter.has_photo(path.stem):
            path.unlink()
