"""Import predictions made elsewhere (by another tool, by hand) as a run: CSV, TSV or JSONL.

    python -m eval.import_run --input preds.csv --data CATALOGUE --split test --output RUN --text answer
    python -m eval.import_run --input preds.jsonl --data CATALOGUE --output RUN --fields title=name full_price=price

One column holds the whole answer (`--text`), which the catalogue's task parses, or each field has its own column
(`--fields`; by default the columns named as the fields). True values come from the catalogue, by id.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mlx_phi3v.catalogue import Catalogue, iterate
from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import atomic_folder
from mlx_phi3v.task import Field, ParsedField, Task, clean_text, is_missing

from .runs.manifest import split_hash
from .runs.prediction import Prediction, true_values
from .runs.run import Run
from .runs.writer import RunWriter

_SHOWN_IDS = 5


@dataclass(frozen=True)
class ImportConfig:
    """Settings of an import."""

    input: Path = option(help="predictions as .csv, .tsv or .jsonl")
    data: Path = option(help="the catalogue of the predictions")
    output: Path = option(help="the run folder to write", writes="new")
    split: str = option("test", help="the catalogue's split")
    id: str = option("id", help="column with the row's id")
    text: str | None = option(None, help="column with the whole answer")
    fields: tuple[str, ...] = option((), help="FIELD=COLUMN pairs, where each field has its own column")
    label: str | None = option(None, help="what to call the run (default: the input's name)")
    partial: bool = option(False, help="accept rows of the split without a prediction")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, columns) of a CSV, TSV or JSONL file.

    Raises UserError where the file is missing, of another kind, or a line cannot be parsed.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"--input {path} is neither .csv, .tsv nor .jsonl; rename or convert it")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if kind == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _json_line(line, path, number)
                return
            reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", strict=True)
            for row in reader:
                if None in row:
                    raise UserError(f"--input {path} line {reader.line_num} has more cells than the header; quote its commas")
                yield reader.line_num, dict(row)
    except FileNotFoundError:
        raise UserError(f"--input {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--input {path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"--input {path} is no valid CSV ({error})") from None


def _json_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"--input {path} line {number} is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"--input {path} line {number} is no JSON object")
    return row


def parse_field(item: Field, value: Any) -> ParsedField:
    """A field's value as another tool gave it: a number may be text ("1,299.00"); empty is missing."""
    if is_missing(value):
        return ParsedField(None, "missing")
    if item.kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return ParsedField(float(value), "ok")
    if item.kind != "number":
        return ParsedField(clean_text(str(value)), "ok")
    # Parsed as the task parses an answer, so that an imported price and a predicted one follow the same rule.
    alone = Task((item,), "", f"{item.name}: {{{item.name}}}")
    return alone.parse(f"{item.name}: {value}")[item.name]


def import_run(settings: ImportConfig) -> Run:
    """Write the run folder.

    Raises UserError for a missing column, an id that is not in the split, one that repeats, or (unless `partial`)
    rows of the split without a prediction.
    """
    catalogue = Catalogue(settings.data)
    task = catalogue.task
    rows = {str(row["id"]): row for row in iterate(catalogue.split(settings.split))}
    columns = _columns(settings, task)
    seen: dict[str, int] = {}
    manifest = {
        "backend": "brought",  # as in runs of earlier versions
        "label": settings.label or settings.input.stem,
        "hashes": {"catalogue": catalogue.fingerprint, "split": split_hash(task, iter(rows.values()))},
        "settings": {},
        "task": task.to_dict(),
        "catalogue": str(settings.data),
        "split": settings.split,
        "split_rows": len(rows),
        "limit": None,
        "shard": None,
    }
    with atomic_folder(settings.output) as temporary, RunWriter.open(temporary, manifest) as writer:
        for number, given in read_rows(settings.input):
            identity = str(_cell(given, settings.id, settings.input, number))
            if identity not in rows:
                raise UserError(f"{settings.input} line {number}: {identity!r} is no row of split {settings.split!r}")
            if identity in seen:
                raise UserError(f"{settings.input} line {number} repeats {identity!r} of line {seen[identity]}")
            seen[identity] = number
            writer.write(_prediction(identity, rows[identity], given, settings, task, columns, number))
        missing = [identity for identity in rows if identity not in seen]
        if missing and not settings.partial:
            named = ", ".join(missing[:_SHOWN_IDS]) + (" and more" if len(missing) > _SHOWN_IDS else "")
            raise UserError(f"{settings.input} has no prediction for {len(missing)} rows ({named}); add them or give --partial")
        writer.finish(seconds=0.0)
    return Run.load(settings.output)


def _columns(settings: ImportConfig, task: Task) -> dict[str, str]:
    names = [item.name for item in task.fields]
    if settings.text and settings.fields:
        raise UserError("give either --text or --fields, not both")
    chosen = {}
    for pair in settings.fields:
        name, _, column = pair.partition("=")
        if name not in names or not column:
            raise UserError(f"--fields {pair}: give FIELD=COLUMN, FIELD one of {', '.join(names)}")
        chosen[name] = column
    return chosen or {name: name for name in names}


def _prediction(
    identity: str,
    row: Mapping[str, Any],
    given: Mapping[str, Any],
    settings: ImportConfig,
    task: Task,
    columns: Mapping[str, str],
    number: int,
) -> Prediction:
    true, image = true_values(task, row), next(iter(row["images"]), None)
    if settings.text:
        text = str(_cell(given, settings.text, settings.input, number) or "")
        return Prediction(identity, true, task.parse(text), text, image=image)
    predicted = {
        item.name: parse_field(item, _cell(given, columns[item.name], settings.input, number))
        if item.name in columns
        else ParsedField(None, "missing")
        for item in task.fields
    }
    return Prediction(identity, true, predicted, image=image)


def _cell(given: Mapping[str, Any], column: str, path: Path, number: int) -> Any:
    if column not in given:
        raise UserError(f"{path} line {number} has no column {column!r}; it has {', '.join(map(str, given))}")
    return given[column]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    run = import_run(parse(ImportConfig, "python -m eval.import_run", __doc__ or "", argv))
    Console(highlight=False).print(f"wrote {run.manifest['rows']:,} rows to {run.path}", markup=False, soft_wrap=True)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
