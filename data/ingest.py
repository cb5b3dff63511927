"""Turn any catalogue into training data: `python -m data.ingest SOURCE --output DIR`.

SOURCE is a CSV, TSV, JSON, JSONL or Parquet file, a folder of photos (category/photo.jpg) or of tables, chat-style JSONL,
a saved `datasets` folder or the id of a hub dataset. Pictures may be bytes, paths or URLs.

    python -m data.ingest photos/ --output runs/photos
    python -m data.ingest products.csv --output runs/shop --config fields.yaml
    python -m data.ingest shop.csv --output runs/shop --field title=Name --field price=Price:number:EUR --image Photo
    python -m data.ingest DBQ/Burberry.Product.prices.United.States --preset burberry --output runs/burberry

A run that is stopped at any moment goes on where it was when started again: its work lies in .NAME.ingest beside DIR.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import atomic_path, write_json
from mlx_phi3v.progress import Progress

from .catalogue import SPLITS, Catalogue, CatalogueWriter
from .pictures import PictureLimits, as_url
from .plan import IngestSettings, Plan, check_settings, make_plan
from .published import PublishedCsv
from .splits import SplitRow, Splitter
from .staging import CHANGED, CODE, LEFT_OUT, PRINTS, ROW, SPLIT, Stage, row_references, stage_all
from .store import Store

_RARE = 5
_WRITE_ROWS = 1000


def ingest(settings: IngestSettings) -> dict[str, Any]:
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
    with _locked(work):
        _prepare_work(work, plan)
        stage = _make_stage(settings, plan, work)
        rows = _fetch(settings, plan, stage.store)
        with Progress("checking rows", rows or plan.source.count, as_json=settings.json) as bar:
            pieces = stage_all(stage, plan.source.rows(), settings.processes, bar.advance)
        info = _write(settings, plan, stage, pieces)
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


def _prepare_work(work: Path, plan: Plan) -> None:
    """Keep what an earlier run with the same plan has done; of another plan's work only the fetched pictures."""
    digest = plan.digest()
    try:
        same = json.loads((work / "plan.json").read_text(encoding="utf-8")).get("digest") == digest
    except (OSError, ValueError):
        same = False
    if not same:
        for name in ("pieces", "catalogue", "failures"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(work / "plan.json", {"digest": digest})


def _make_stage(settings: IngestSettings, plan: Plan, work: Path) -> Stage:
    asks = plan.source.kind == "chat" and settings.prompt is None
    return Stage(
        work=work,
        mapping=plan.mapping,
        extras=plan.extras,
        schema=plan.schema,
        limits=PictureLimits(settings.max_pixels, settings.min_side, settings.max_bytes),
        pictures_per_row=plan.mapping.pictures_per_row(),
        question=plan.mapping.prompt if asks else None,
        store=Store(settings.downloads or work / "downloads", work / "failures"),
        near_duplicates=settings.near_duplicates,
    )


def _fetch(settings: IngestSettings, plan: Plan, store: Store) -> int | None:
    """Fetch the pictures that rows name by URL -> the number of rows, or None where none were looked at."""
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
    with Progress("fetching pictures", plan.source.count, as_json=settings.json) as bar:

        def show(counts: FetchCounts) -> None:
            bar.advance(failed=counts.failed, per_second=counts.fetched / (time.monotonic() - began))

        Downloader(store, limits, backend, show).run(_chain(first, urls))
    return urls.rows


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


class _Urls(Iterator[str]):
    """The URLs of a source's rows, in order; counts the rows as it goes."""

    def __init__(self, plan: Plan) -> None:
        self.rows = 0
        self._found = self._read(plan)

    def _read(self, plan: Plan) -> Iterator[str]:
        for row in plan.source.rows():
            self.rows += 1
            if isinstance(row.values, dict):
                yield from filter(None, map(as_url, row_references(plan.mapping, row.values)))

    def __next__(self) -> str:
        return next(self._found)


def _staged_rows(stage: Stage, pieces: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    for number in range(pieces):
        with pa.memory_map(str(stage.piece_path(number))) as file:
            table = pa.ipc.open_file(file).read_all()
            for batch in (table.select(columns) if columns else table).to_batches(_WRITE_ROWS):
                yield from batch.to_pylist()


def _write(settings: IngestSettings, plan: Plan, stage: Stage, pieces: int) -> dict[str, Any]:
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


def _category_report(counts: Counter[str]) -> dict[str, Any]:
    named = Counter({name: count for name, count in counts.items() if name})
    folded: dict[str, list[str]] = {}
    for name in sorted(named):
        folded.setdefault(name.casefold(), []).append(name)
    return {
        "distinct": len(named),
        "missing": counts.get("", 0),
        "largest": dict(named.most_common(20)),
        "rare": {name: count for name, count in sorted(named.items()) if count < _RARE},
        "differ_only_in_case": [names for names in folded.values() if len(names) > 1],
    }


def summary(info: Mapping[str, Any], output: Path) -> str:
    """What a person should know of the run, in a few lines."""
    counts, products = info["counts"], info["products"]
    splits = ", ".join(f"{name} {entry['rows']}" for name, entry in info["splits"].items())
    lines = [
        f"{output}: {counts['kept']} of {counts['read']} rows kept, {counts['pictures']} pictures; {splits}",
        f"{products['rows_held_together']} rows held together as parts of {products['products']} products "
        f"(links by {', '.join(f'{cause}: {count}' for cause, count in products['joined_by'].items())})",
    ]
    if counts["rejected"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in counts["rejected"].items())
        lines.append(f"left out, see rejected.csv: {reasons}")
    if counts["pictures_left_out"]:
        lines.append(f"{counts['pictures_left_out']} further pictures of rows were left out: the prompt does not show them")
    if products["leaking_products"]:
        lines.append(f"warning: {products['leaking_products']} products stand in several of the source's own splits")
    for name, report in info["categories"].items():
        if report["rare"]:
            lines.append(f"{name}: {report['distinct']} categories, {len(report['rare'])} with fewer than {_RARE} rows")
    if not any(name in info["splits"] for name in SPLITS[1:]):
        lines.append("warning: there is only a train split; the source has too few products for another")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(IngestSettings, "python -m data.ingest", __doc__ or "", argv)
    info = ingest(settings)
    print(json.dumps(info, ensure_ascii=False) if settings.json else summary(info, settings.output))
    return 0


if __name__ == "__main__":
    run_cli(main)
