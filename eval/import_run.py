"""Import predictions made elsewhere (by another tool, by hand) as a run: a table, or the sample log of a harness.

    python -m eval.import_run --input preds.csv --data CATALOGUE --split test --output RUN --text answer
    python -m eval.import_run --input preds.jsonl --data CATALOGUE --output RUN --fields title=name full_price=price
    python -m eval.import_run --input samples_gsm8k_2026-01-01.jsonl --output RUN
    python -m eval.import_run --input 2026-01-01_mmlu.eval --output RUN --score choice

Of a table, read as data.ingest reads it, one column holds the whole answer (`--text`), which the catalogue's task parses,
or each field has its own column (`--fields`; by default the columns named as the fields). True values come from the
catalogue, by id.

Without `--data`, the input is a sample log of lm-evaluation-harness, lmms-eval or Inspect. Each of its scores from 0 to 1 is
a field of the run, which eval.compare judges; `--score` chooses among them. Of a log without scores the answers are held
against the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from data.ingest.reading.options import Quoting, Reading
from mlx_phi3v.catalogue import PRODUCT, Catalogue, iterate
from mlx_phi3v.cli import option, parse
from mlx_phi3v.documents import plain, shown
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import sha256_json
from mlx_phi3v.progress import note
from mlx_phi3v.ranges import MAX_ROWS
from mlx_phi3v.task import Field, ParsedField, Task, clean_text, is_missing

from .runs.harness_logs import as_run, is_log, read_log
from .runs.made_from import KEY, is_made, made_from, said
from .runs.manifest import split_hash
from .runs.prediction import Prediction, true_values
from .runs.run import Run
from .runs.table_rows import read_rows
from .runs.writer import RunWriter

_SHOWN_IDS = 5
_SHOWN_COLUMNS = 30


@dataclass(frozen=True)
class ImportConfig:
    """Settings of an import."""

    input: Path = option(help="predictions as a table (.csv, .tsv, .jsonl, .xlsx, .parquet), or the sample log of a harness")
    data: Path | None = option(None, help="the catalogue of the predictions; none for the log of a harness")
    output: Path | None = option(None, help="the run folder to write", writes="new")
    split: str = option("test", help="the catalogue's split")
    id: str = option("id", help="column with the row's id")
    text: str | None = option(None, help="column with the whole answer")
    fields: tuple[str, ...] = option((), help="FIELD=COLUMN pairs, where each field has its own column")
    label: str | None = option(None, help="what to call the run (default: the input's name)")
    partial: bool = option(False, help="accept rows of the split without a prediction")
    encoding: str | None = option(None, help="encoding of a CSV file; found in its bytes if not given")
    delimiter: str | None = option(None, help="column delimiter of a CSV file; found in its rows if not given")
    quoting: str | None = option(
        None,
        choices=("rfc", "backslash", "none"),
        help="quotes of a CSV file: doubled (rfc), escaped by a backslash, or text (none); found in its rows if not given",
    )
    header_line: int | None = option(
        None, at_least=1, at_most=MAX_ROWS, help="line or row of a table, from 1, that names the columns; found if not given"
    )
    sheet: str | None = option(None, help="sheet of a workbook; the one with most rows if not given")
    score: tuple[str, ...] = option((), help="of a harness' log: the scores to take (default: all from 0 to 1)")

    @property
    def reading(self) -> Reading:
        """How the table is read."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise UserError(f"--delimiter is {shown(self.delimiter)}; it must be one character, such as ; or a tab")
        return Reading(self.encoding, self.delimiter, cast("Quoting | None", self.quoting), self.header_line, self.sheet)


def parse_field(item: Field, value: Any) -> ParsedField:
    """A field's value as another tool gave it: a number may be text as a shop writes it ("$1,299.00"); empty is missing."""
    if is_missing(value):
        return ParsedField(None, "missing")
    if item.kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return ParsedField(float(value), "ok")
    if item.kind != "number":
        return ParsedField(clean_text(str(value)), "ok")
    # Parsed as the task parses an answer, so that an imported price and a predicted one follow the same rule.
    alone = Task((item,), "", f"{item.name}: {{{item.name}}}")
    parsed = alone.parse(f"{item.name}: {value}")[item.name]
    if parsed.status == "ok":
        return parsed
    from data.ingest.prices import PriceError, parse_price  # with its tables: only where a price needs them

    try:
        return ParsedField(float(parse_price(value, currency=item.currency).amount), "ok")
    except PriceError:
        return parsed


def import_run(settings: ImportConfig) -> Run:
    """Write the run folder; one that was made from the same input stays as it is.

    Raises UserError for a missing column, an id that is not in the split, one that repeats, or (unless `partial`)
    rows of the split without a prediction; without `data`, for a file that is no log of a known harness.
    """
    if settings.output is None:
        raise UserError("--output is required (as a flag or as the key 'output' of --config)")
    if settings.data is None:
        return _import_log(settings, settings.output)
    return _import_table(settings, Catalogue(settings.data), settings.output)


def _import_log(settings: ImportConfig, output: Path) -> Run:
    """Write the run of a harness' log. Raises UserError where it is none, or for flags that belong to a table."""
    for flag, given in (("--text", settings.text), ("--fields", settings.fields)):
        if given:
            raise UserError(f"{flag} is of a table, which needs its catalogue: give --data")
    log = read_log(settings.input)
    log.choose(settings.score)
    note(f"{settings.input} is {log.sentence()}")
    manifest = as_run.manifest_of(log, settings.label or log.model or settings.input.stem)
    entry = made_from("eval.import_run", [settings.input], manifest=sha256_json(manifest))
    if is_made(output, entry):
        note(said(output))
        return Run.load(output)
    with RunWriter.create(output, manifest | {KEY: entry}) as writer:
        for row in as_run.predictions_of(log):
            writer.write(row)
        writer.finish(seconds=0.0)
    return Run.load(output)


def _import_table(settings: ImportConfig, catalogue: Catalogue, output: Path) -> Run:
    """Write the run of a table."""
    if settings.score:
        raise UserError("--score is of a harness' log; leave --data out to read one")
    if settings.id == "id" and is_log(settings.input):
        raise UserError(
            f"--input {settings.input} is the log of a harness; leave --data out to take its scores, "
            "or name its columns with --id and --text"
        )
    task = catalogue.task
    rows = {str(row["id"]): row for row in iterate(catalogue.split(settings.split))}
    columns = _columns(settings, task)
    # Refuses what is no table before anything is hashed or made.
    numbered = read_rows(settings.input, settings.reading, settings.id)
    manifest = _manifest(settings, catalogue, rows)
    how = {"id": settings.id, "text": settings.text, "columns": columns, "partial": settings.partial}
    how |= {"reading": asdict(settings.reading)} if settings.reading != Reading() else {}
    entry = made_from("eval.import_run", [settings.input], manifest=sha256_json(manifest), **how)
    if is_made(output, entry):
        note(said(output))
        return Run.load(output)
    seen: dict[str, int] = {}
    with RunWriter.create(output, manifest | {KEY: entry}) as writer:
        for number, given in numbered:
            identity = str(_cell(given, settings.id, settings.input, number))
            if identity not in rows:
                raise UserError(f"{settings.input} line {number}: {identity!r} is no row of split {settings.split!r}")
            if identity in seen:
                raise UserError(f"{settings.input} line {number} repeats {identity!r} of line {seen[identity]}")
            seen[identity] = number
            writer.write(_prediction(identity, rows[identity], given, settings, task, columns, number))
        _check_all_there(settings, [identity for identity in rows if identity not in seen])
        writer.finish(seconds=0.0)
    return Run.load(output)


def _manifest(settings: ImportConfig, catalogue: Catalogue, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "backend": "brought",  # as in runs of earlier versions
        "label": settings.label or settings.input.stem,
        "hashes": {"catalogue": catalogue.fingerprint, "split": split_hash(catalogue.task, iter(rows.values()))},
        "settings": {},
        "task": catalogue.task.to_dict(),
        "catalogue": str(settings.data),
        "split": settings.split,
        "split_rows": len(rows),
        "limit": None,
        "shard": None,
    }


def _check_all_there(settings: ImportConfig, missing: list[str]) -> None:
    if missing and not settings.partial:
        named = ", ".join(missing[:_SHOWN_IDS]) + (" and more" if len(missing) > _SHOWN_IDS else "")
        raise UserError(f"{settings.input} has no prediction for {len(missing)} rows ({named}); add them or give --partial")


def _columns(settings: ImportConfig, task: Task) -> dict[str, str]:
    names = [item.name for item in task.fields]
    if settings.text and settings.fields:
        raise UserError("give either --text or --fields, not both")
    chosen: dict[str, str] = {}
    for pair in settings.fields:
        name, _, column = pair.partition("=")
        if name not in names or not column:
            raise UserError(f"--fields {pair}: give FIELD=COLUMN, FIELD one of {', '.join(names)}")
        if name in chosen:
            raise UserError(f"--fields gives {name} twice, as {chosen[name]} and {column}; give one column for each field")
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
    true, image, product = true_values(task, row), next(iter(row["images"]), None), row.get(PRODUCT)
    if settings.text:
        text = str(_cell(given, settings.text, settings.input, number) or "")
        return Prediction(identity, true, task.parse(text), text, image=image, product=product)
    predicted = {
        item.name: parse_field(item, _cell(given, columns[item.name], settings.input, number))
        if item.name in columns
        else ParsedField(None, "missing")
        for item in task.fields
    }
    return Prediction(identity, true, predicted, image=image, product=product)


def _cell(given: Mapping[str, Any], column: str, path: Path, number: int) -> Any:
    if column not in given:
        raise UserError(
            f"{path} line {number} has no column {column!r}; it has {', '.join(map(str, list(given)[:_SHOWN_COLUMNS]))}"
        )
    value = given[column]
    if isinstance(value, (dict, list)):
        raise UserError(f"{path} line {number}: {plain(column)} is {shown(value)}; it must be text, a number or null")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    run = import_run(parse(ImportConfig, "python -m eval.import_run", __doc__ or "", argv))
    Console(highlight=False).print(f"wrote {run.manifest['rows']:,} rows to {run.path}", markup=False, soft_wrap=True)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
