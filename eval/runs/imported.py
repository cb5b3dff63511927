"""Predictions made elsewhere, imported as a run: of a table with its catalogue, or of a harness' sample log."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.ingest.column_names import find_column
from data.ingest.paths_in_row import resolve
from data.ingest.reading.options import Reading
from mlx_phi3v.catalogue import PRODUCT, Catalogue, iterate
from mlx_phi3v.documents import parse_json, plain, shown
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.progress import note
from mlx_phi3v.task import Field, ParsedField, Task, clean_text, is_missing

from .harness_logs import as_run, is_log, read_log
from .import_config import ImportConfig
from .made_from import KEY, is_made, made_from, said
from .manifest import split_hash
from .prediction import LARGEST, Prediction, true_values
from .row_ids import RowIds
from .run import Run
from .table_rows import read_rows
from .writer import RunWriter

_FENCE = re.compile(r"^\s*```\w*\n(.*?)\n?```\s*$", re.DOTALL)  # chat models put around an answer
_SHOWN_IDS = 5
_SHOWN_COLUMNS = 30


def parse_field(item: Field, value: Any) -> ParsedField:
    """A field's value as another tool gave it: a number may be text as a shop writes it ("$1,299.00"); empty is missing."""
    if is_missing(value):
        return ParsedField(None, "missing")
    if item.kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return ParsedField(float(value), "ok") if abs(value) <= LARGEST else ParsedField(None, "malformed")
    if item.kind != "number":
        return ParsedField(clean_text(str(value)), "ok")
    # Parsed as the task parses an answer, so that an imported price and a predicted one follow the same rule.
    alone = Task((item,), "", f"{item.name}: {{{item.name}}}")
    parsed = alone.parse(f"{item.name}: {value}")[item.name]
    if parsed.status == "ok":
        return parsed
    from data.ingest.amounts import PriceError  # with its tables: only where a price needs them
    from data.ingest.prices import parse_price

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
    unread: Counter[str] = Counter()
    ids = RowIds(rows, f"split {settings.split!r}")
    with RunWriter.create(output, manifest | {KEY: entry}) as writer:
        for number, given in numbered:
            identity = ids.find(str(_cell(given, settings.id, settings.input, number)), f"{settings.input} line {number}")
            if identity in seen:
                raise UserError(f"{settings.input} line {number} repeats {identity!r} of line {seen[identity]}")
            seen[identity] = number
            prediction = _prediction(identity, rows[identity], given, settings, task, columns, number)
            unread.update(name for name, field in prediction.predicted.items() if field.status != "ok")
            writer.write(prediction)
        _check_all_there(settings, [identity for identity in rows if identity not in seen])
        writer.finish(seconds=0.0)
    _note_unread(unread, len(seen), settings, task)
    return Run.load(output)


def _note_unread(unread: Counter[str], rows: int, settings: ImportConfig, task: Task) -> None:
    """Say which fields most answers give no value of: those rows count as wrong."""
    names = [name for name, count in unread.items() if 2 * count > rows]
    if names:
        how = f"the template is {shown(task.template)}" if settings.text else "--fields names another column"
        listed = " and ".join(f"{name} in {unread[name]:,}" for name in names)
        note(f"could not be read: {listed} of {rows:,} rows of {settings.input}, which count as wrong; {how}")


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
        answer = str(_cell(given, settings.text, settings.input, number) or "")
        predicted, text = _read_answer(task, answer)
        return Prediction(identity, true, predicted, text, image=image, product=product)
    predicted = {
        item.name: parse_field(item, _cell(given, columns[item.name], settings.input, number))
        if item.name in columns
        else ParsedField(None, "missing")
        for item in task.fields
    }
    return Prediction(identity, true, predicted, image=image, product=product)


def _read_answer(task: Task, text: str) -> tuple[dict[str, ParsedField], str | None]:
    """(fields, text) of an answer, without a fence around it.

    One that has no field by the template but is a JSON object with their names is read as `--fields` are: without its text,
    which would not be read so when it is scored again.
    """
    text = _FENCE.sub(r"\1", text)
    parsed = task.parse(text)
    if any(field.status != "missing" for field in parsed.values()) or not text.lstrip().startswith("{"):
        return parsed, text
    try:
        said = parse_json(text.encode("utf-8", "replace"), "answer", nan_is_null=True)
    except (ValueError, UserError):
        return parsed, text
    names = {item: found for item in task.fields if (found := find_column(item.name, list(said)))}
    values = {item: said.get(name) for item, name in names.items()}
    own = {item.name: parse_field(item, value) for item, value in values.items() if not isinstance(value, (dict, list))}
    return parsed | own, None if own else text


def _cell(given: Mapping[str, Any], column: str, path: Path, number: int) -> Any:
    found = find_column(column, list(given))
    if found is None:
        close = difflib.get_close_matches(column, map(str, given), n=1, cutoff=0.4)
        hint = f" (--fields {column}={close[0]}?)" if close and "." not in column else ""
        listed = ", ".join(map(str, list(given)[:_SHOWN_COLUMNS]))
        raise UserError(f"{path} line {number} has no column {column!r}; it has {listed}{hint}")
    value = resolve(given, found)
    if isinstance(value, (dict, list)):
        raise UserError(f"{path} line {number}: {plain(column)} is {shown(value)}; it must be text, a number or null")
    return value
