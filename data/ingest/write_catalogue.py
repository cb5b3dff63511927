"""Split the checked rows and write them, with the report of what was left out."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_path
from mlx_phi3v.progress import Progress

from ..writer import CatalogueWriter
from .plan import Plan
from .published import PublishedCsv
from .settings import IngestConfig
from .splits import SplitRow, Splitter
from .stage import CHANGED, CODE, LEFT_OUT, PRINTS, ROW, SPLIT, Stage
from .summary import _category_report

_WRITE_ROWS = 1000


def _staged_rows(stage: Stage, pieces: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    for number in range(pieces):
        with pa.memory_map(str(stage.piece_path(number))) as file:
            table = pa.ipc.open_file(file).read_all()
            for batch in (table.select(columns) if columns else table).to_batches(_WRITE_ROWS):
                yield from batch.to_pylist()


def _write(settings: IngestConfig, plan: Plan, stage: Stage, pieces: int) -> dict[str, Any]:
    """Split the staged rows and write the catalogue -> its `catalogue.json`."""
    categories = [field.name for field in plan.mapping.fields if field.kind == "category"]
    shares = {name: share for name, share in (("validation", settings.validation), ("test", settings.test)) if share}
    splitter = Splitter(stage.work / "splitting", settings.seed)
    with Progress("splitting", 3, as_json=settings.json) as bar:
        splitter.load(_split_rows(stage, pieces, categories[0] if categories else None))
        bar.advance()
        rejected = _write_rejected(stage, pieces)
        if not splitter.rows:
            raise _nothing_left(settings.source, rejected, stage.work / "catalogue" / "rejected.csv")
        links = splitter.join(near=settings.near_duplicates)
        bar.advance()
        splitter.assign(shares)
        report = splitter.report(links)
        bar.advance()
    _remove_strays(stage.work / "catalogue", splitter)
    hidden = (ROW, SPLIT, CODE, PRINTS, CHANGED, LEFT_OUT)
    changed, left_out, counted = 0, 0, {name: Counter[str]() for name in categories}
    writer = CatalogueWriter(
        settings.output,
        plan.task,
        name=settings.output.name,
        source={"kind": plan.source.kind, "name": plan.source.name, "identity": plan.source.identity},
        settings=dict(plan.settings) | {"mapping": plan.mapping.to_dict()},
        extra={name: plan.schema.field(name).type for name in plan.extras},
        folder=stage.work / "catalogue",
    )
    with writer, Progress("writing", splitter.rows, as_json=settings.json) as bar:
        published = PublishedCsv(writer.folder, settings.output, plan) if settings.csv else None
        for row, split in zip(_staged_rows(stage, pieces), splitter.splits(), strict=True):
            changed += row[CHANGED]
            left_out += row[LEFT_OUT]
            for name in categories:
                counted[name][row[name] or ""] += 1
            clean = {name: value for name, value in row.items() if name not in hidden}
            writer.add(split, clean)
            if published:
                published.add(split, clean)
            bar.advance(1)
        if published:
            published.close()
        writer.info |= {
            "counts": {
                "read": splitter.rows + sum(rejected.values()),
                "kept": splitter.rows,
                "rejected": dict(rejected.most_common()),
                "pictures": splitter.pictures,
                "pictures_changed": changed,
                "pictures_left_out": left_out,
            },
            "categories": {name: _category_report(counts) for name, counts in counted.items()},
            "products": dataclasses.asdict(report),
        }
        splitter.close()
    return writer.info


def _split_rows(stage: Stage, pieces: int, category: str | None) -> Iterator[SplitRow]:
    columns = [ROW, "images", CODE, SPLIT, PRINTS, *([category] if category else [])]
    for row in _staged_rows(stage, pieces, columns):
        contents = tuple((Path(image).stem, near) for image, near in zip(row["images"], row[PRINTS]))
        yield SplitRow(row[ROW], row[category] if category else None, row[CODE], row[SPLIT], contents)


def _write_rejected(stage: Stage, pieces: int) -> Counter[str]:
    reasons: Counter[str] = Counter()
    with (
        atomic_path(stage.work / "catalogue" / "rejected.csv") as path,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, ("row", "reason", "value", "place"))
        writer.writeheader()
        for number in range(pieces):
            for line in stage.rejected_path(number).read_text(encoding="utf-8").splitlines():
                item = json.loads(line)
                reasons[item["reason"]] += 1
                writer.writerow(item)
    return reasons


def _nothing_left(source: str, rejected: Counter[str], path: Path) -> UserError:
    if not rejected:
        return UserError(f"{source} holds no rows")
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
    return UserError(f"no row of {source} can be used: {reasons}; {path} names each row")


def _remove_strays(folder: Path, splitter: Splitter) -> None:
    """Drop pictures that a killed run stored for rows that were not kept after all."""
    for path in (folder / "images").glob("*/*"):
        if not splitter.has_picture(path.stem):
            path.unlink()
