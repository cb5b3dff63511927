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
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import atomic_path, sha256_json, write_json
from mlx_phi3v.photo import MAX_PIXELS, MIN_SIDE
from mlx_phi3v.task import Task

from .catalogue import SPLITS, Catalogue, CatalogueWriter
from .mapping import PRESETS, FieldMapping, load_preset, make_mapping, parse_field_flag
from .pictures import PictureLimits, as_url
from .progress import Progress
from .sources import Source, open_source
from .splits import SplitRow, Splitter
from .staging import CHANGED, CODE, PRINTS, ROW, SPLIT, Stage, row_references, stage_all, stage_schema
from .store import Store

_RARE = 5
_WRITE_ROWS = 1000


@dataclass(frozen=True)
class IngestSettings:
    """One run of `data.ingest`: the source, what to learn from it, how to fetch and how to split."""

    source: str = option(help="file, folder or hub dataset id", positional=True)
    output: Path = option(help="folder of the new catalogue", flags=("-o",))
    preset: str | None = option(None, help="columns, prompt and template of a known data set", choices=PRESETS)
    field: tuple[str, ...] = option((), help="fields to learn, each NAME=COLUMN:KIND:CURRENCY; kinds: text, category, number")
    image: Any = option(None, help="column with the picture: bytes, path or URL")
    code: Any = option(None, help="column with the product code; equal codes stay in one split")
    split: Any = option(None, help="column with the split, where the source has its own")
    prompt: str | None = option(None, help="the question about each picture")
    template: str | None = option(None, help="the answer, such as 'Title: {title}, Price: {price}'")
    currency: str | None = option(None, help="ISO code of the prices, for fields that name none")
    encoding: str = option("utf-8", help="encoding of a CSV file")
    delimiter: str | None = option(None, help="column delimiter of a CSV file; found in its header if not given")
    validation: float = option(0.1, help="share of the rows for validation")
    test: float = option(0.0, help="share of the rows for the test split")
    seed: int = option(0, help="the same seed splits the same way")
    near_duplicates: bool = option(True, help="keep near-identical pictures in one split")
    csv: bool = option(False, help="also write products.csv with local_image_path, as the published recipe reads it")
    processes: int = option(os.cpu_count() or 1, help="processes that check rows and pictures")
    max_bytes: int = option(50_000_000, help="largest picture file, in bytes")
    max_pixels: int = option(MAX_PIXELS, help="largest picture, in pixels")
    min_side: int = option(MIN_SIDE, help="shortest side of a picture, in pixels")
    downloads: Path | None = option(None, help="folder that keeps fetched pictures for later runs")
    connections: int = option(32, help="downloads at a time")
    per_host: int = option(8, help="downloads at a time from one host")
    timeout: float = option(20.0, help="seconds without a byte before a download counts as stalled")
    retries: int = option(4, help="further attempts after a failure that may pass")
    allow_private: bool = option(False, help="also fetch from addresses inside your own network")
    allow_hosts: tuple[str, ...] = option((), help="fetch from these HOST:PORT, wherever they are")
    json: bool = option(False, help="print the summary as JSON")
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    def mapping_keys(self) -> dict[str, Any]:
        """What maps columns to fields: the preset, overlaid with the user's own keys."""
        own = {key: getattr(self, key) for key in ("fields", "image", "code", "split", "prompt", "template", "currency")}
        if self.field:
            own["fields"] = {**self.fields, **dict(parse_field_flag(text) for text in self.field)}
        keys = load_preset(self.preset) if self.preset else {}
        return keys | {key: value for key, value in own.items() if value not in (None, {})}


@dataclass(frozen=True)
class Plan:
    """All that decides what the catalogue will hold; a run with another plan starts its rows anew."""

    source: Source
    mapping: FieldMapping
    task: Task
    extras: Mapping[str, str]
    schema: pa.Schema
    settings: Mapping[str, Any]

    def digest(self) -> str:
        """Changes when the source's data, the mapping or a setting that matters does."""
        return sha256_json([self.source.identity, self.mapping.to_dict(), dict(self.extras), dict(self.settings)])


def ingest(settings: IngestSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Make the catalogue of `settings` -> its `catalogue.json`.

    Raises UserError for a wrong source, mapping or setting, and where no row can be used.
    """
    progress = progress or Progress(quiet=True)
    _check(settings)
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
        rows = _fetch(settings, plan, stage.store, progress)
        with progress.bar("checking rows", rows or plan.source.count) as bar:
            pieces = stage_all(stage, plan.source.rows(), settings.processes, bar.advance)
        info = _write(settings, plan, stage, pieces, progress)
        shutil.rmtree(work)
    return info


def _check(settings: IngestSettings) -> None:
    for name in ("validation", "test"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}; give a share from 0 to below 1")
    if settings.validation + settings.test >= 1:
        raise UserError("--validation and --test leave nothing to train on; give shares that add up to less than 1")
    for name in ("processes", "connections", "per_host", "max_bytes", "max_pixels", "min_side"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; give at least 1")
    if settings.retries < 0 or settings.timeout <= 0:
        raise UserError("--retries must not be negative and --timeout must be above 0 seconds")
    for host in settings.allow_hosts:
        if not host.rpartition(":")[2].isdecimal() or ":" not in host:
            raise UserError(f"--allow-hosts {host!r} has no port; write HOST:PORT, such as pictures.intranet:443")


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


def make_plan(settings: IngestSettings) -> Plan:
    """Open the source and settle what becomes of its columns. Raises UserError where that cannot be."""
    keys = settings.mapping_keys()
    answer_task = _answer_task(keys)
    source = open_source(settings.source, encoding=settings.encoding, delimiter=settings.delimiter, answer_task=answer_task)
    columns = source.columns
    if source.kind == "chat":
        keys.setdefault("prompt", source.parts[0].table.first_question())  # type: ignore[attr-defined]
        if not answer_task:
            keys = {"fields": {"answer": "answer"}, "template": "{answer}"} | keys
    mapping = make_mapping(keys, list(columns), settings.source)
    extras = _extras(mapping, columns)
    schema = stage_schema(mapping, {name: _carried_type(columns[column]) for name, column in extras.items()})
    matters = ("validation", "test", "seed", "near_duplicates", "csv", "max_bytes", "max_pixels", "min_side", "preset")
    chosen = {name: getattr(settings, name) for name in matters}
    return Plan(source, mapping, mapping.task(), extras, schema, chosen)


def _answer_task(keys: Mapping[str, Any]) -> Task | None:
    """The task that reads chat answers back into fields, where the user names fields and a template."""
    fields = keys.get("fields") or {}
    if not (fields and keys.get("template")):
        return None
    own = {name: {**(spec if isinstance(spec, Mapping) else {}), "column": name} for name, spec in fields.items()}
    return make_mapping({"fields": own, "template": keys["template"]}, list(own), "the answers").task()


def _extras(mapping: FieldMapping, columns: Mapping[str, pa.DataType]) -> dict[str, str]:
    """The columns to carry along, by their name in the catalogue."""
    used = {field.column for field in mapping.fields}
    taken = {"id", "images", *(field.name for field in mapping.fields)}
    extras = {}
    for column, kind in columns.items():
        if column in used or (column in mapping.images and not pa.types.is_string(kind)):
            continue  # the field holds it, or it is the picture itself
        name = column
        while name in taken or name.startswith("_"):
            name = f"source_{name.lstrip('_')}"
        taken.add(name)
        extras[name] = column
    return extras


def _carried_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


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
    prompt = plan.task.prompt
    placeholders = sum(f"<|image_{k}|>" in prompt for k in range(1, prompt.count("<|image_") + 1))
    asks = plan.source.kind == "chat" and settings.prompt is None
    return Stage(
        work=work,
        mapping=plan.mapping,
        extras=plan.extras,
        schema=plan.schema,
        limits=PictureLimits(settings.max_pixels, settings.min_side, settings.max_bytes),
        pictures_per_row=placeholders,
        question=plan.mapping.prompt if asks else None,
        store=Store(settings.downloads or work / "downloads", work / "failures"),
        near_duplicates=settings.near_duplicates,
    )


def _fetch(settings: IngestSettings, plan: Plan, store: Store, progress: Progress) -> int | None:
    """Fetch the pictures that rows name by URL -> the number of rows, or None where none were looked at."""
    if not plan.mapping.images or plan.source.kind == "images":
        return None
    urls = _Urls(plan)
    first = next(urls, None)
    if first is None:
        return urls.rows
    from .addresses import GuardedBackend
    from .download import Downloader, FetchLimits

    limits = FetchLimits(
        settings.max_bytes, settings.connections, settings.per_host, settings.timeout, retries=settings.retries
    )
    backend = GuardedBackend(allow_private=settings.allow_private, allowed=settings.allow_hosts)
    with progress.bar("fetching pictures", plan.source.count, unit="pictures") as bar:
        downloader = Downloader(store, limits, backend, lambda counts: bar.update(counts.done, failed=counts.failed))
        downloader.run(_chain(first, urls))
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


def _write(settings: IngestSettings, plan: Plan, stage: Stage, pieces: int, progress: Progress) -> dict[str, Any]:
    """Split the staged rows and write the catalogue -> its `catalogue.json`."""
    categories = [field.name for field in plan.mapping.fields if field.kind == "category"]
    shares = {name: share for name, share in (("validation", settings.validation), ("test", settings.test)) if share}
    with progress.step("splitting"):
        splitter = Splitter(stage.work / "splitting", settings.seed)
        splitter.load(_split_rows(stage, pieces, categories[0] if categories else None))
        rejected = _write_rejected(stage, pieces)
        if not splitter.rows:
            raise _nothing_left(settings.source, rejected, stage.work / "catalogue" / "rejected.csv")
        links = splitter.join(near=settings.near_duplicates)
        splitter.assign(shares)
        report = splitter.report(links)
    _remove_strays(stage.work / "catalogue", splitter)
    hidden = (ROW, SPLIT, CODE, PRINTS, CHANGED)
    changed, counted = 0, {name: Counter[str]() for name in categories}
    writer = CatalogueWriter(
        settings.output,
        plan.task,
        name=settings.output.name,
        source={"kind": plan.source.kind, "name": plan.source.name, "identity": plan.source.identity},
        settings=dict(plan.settings) | {"mapping": plan.mapping.to_dict()},
        extra={name: plan.schema.field(name).type for name in plan.extras},
        folder=stage.work / "catalogue",
    )
    with writer, progress.bar("writing", splitter.rows) as bar:
        published = PublishedCsv(writer.folder, settings.output, plan) if settings.csv else None
        for row, split in zip(_staged_rows(stage, pieces), splitter.splits(), strict=True):
            changed += row[CHANGED]
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


class PublishedCsv:
    """products.csv as the published recipe reads it: the columns of a row and `local_image_path`, the picture's place."""

    def __init__(self, folder: Path, output: Path, plan: Plan) -> None:
        self._output = output.resolve()
        self._names = [field.name for field in plan.mapping.fields] + list(plan.extras)
        self._file = open(folder / "products.csv", "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, (*self._names, "local_image_path", "split_name"), extrasaction="ignore")
        self._writer.writeheader()

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Write one row."""
        image = str(self._output / row["images"][0]) if row["images"] else ""
        self._writer.writerow({**row, "local_image_path": image, "split_name": split})

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


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
    info = ingest(settings, Progress(quiet=settings.json))
    print(json.dumps(info, ensure_ascii=False) if settings.json else summary(info, settings.output))
    return 0


if __name__ == "__main__":
    run_cli(main)
