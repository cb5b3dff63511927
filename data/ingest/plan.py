"""The plan of an ingest: its source, and the use of every column."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue_checks import TURNS_TYPE
from mlx_phi3v.catalogue_columns import INGEST_FILE
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.hub.contents import EXPORT_FILE
from mlx_phi3v.progress import note
from mlx_phi3v.task import Task, chat_prompt
from mlx_phi3v.turns import TURNS

from .chat import ChatPrompt, ChatTable
from .chunk_store import chunk_schema
from .currencies import read_rates
from .field_hints import with_fields_by_value
from .field_values import ValueRules
from .ingest_config import IngestConfig
from .join import JoinedTable
from .known_exports import load_preset, with_preset
from .mapping import FieldMapping, make_mapping
from .paths_in_row import column_of
from .photos_by_value import no_pictures, photos_by_value
from .planned_rows import PlannedRows
from .row_references import row_references
from .shown_by_values import with_shown_by_values
from .source_tables import first_rows
from .sources import Source, open_source
from .tables import Reading, Table, open_table


@dataclass(frozen=True)
class IngestPlan:
    """All that decides the content of the catalogue; a run with another plan checks its rows again."""

    source: Source
    mapping: FieldMapping
    task: Task
    extras: Mapping[str, str]
    schema: pa.Schema
    settings: Mapping[str, Any]
    rows: PlannedRows  # the source's rows in their final shape
    columns: Mapping[str, pa.DataType]  # of the source, and of what is joined to it
    rules: ValueRules
    export: str | None = None  # what the source was read as, where its columns show it
    chat: ChatPrompt | None = None  # what the task asks, where rows are conversations
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)  # the settings that decide the content, by their text

    @property
    def count(self) -> int:
        """About how many rows there are, for progress."""
        return min(self.source.count, self.rows.limit or self.source.count)

    def digest(self) -> str:
        """Changes when the source's data, the mapping or a setting that matters does."""
        joined = self.rows.joined.identity if self.rows.joined else None
        parts = [self.source.identity, self.mapping.to_dict(), dict(self.extras), dict(self.settings), joined, self.given]
        return sha256_json(parts)


def make_plan(settings: IngestConfig) -> IngestPlan:
    """Open the source and decide the use of every column. Raises UserError for a source or mapping that does not fit."""
    settings = _with_own_preset(settings)
    keys = settings.mapping_keys()
    answer_task = _answer_task(keys)
    source = open_source(settings.source, reading=settings.reading(), hub=settings.hub(), answer_task=answer_task)
    joined = _joined(settings, source)
    columns = source.columns | (joined.columns if joined else {})
    first = source.tables[0].table
    export = chat = None
    if isinstance(first, ChatTable):
        keys = load_preset(settings.preset or "none") | keys
        chat = _chat_prompt(first, keys)
        keys |= {"prompt": keys.get("prompt") or chat_prompt(chat.question, max(1, chat.images))}
        if not answer_task:
            _require_columns(keys, columns, settings.source)
            keys = {"fields": {"answer": "answer"}, "template": "{answer}"} | keys
    else:
        looked_at = PlannedRows(source, _NO_MAPPING, joined, settings.limit)
        keys, export = _with_known_columns(settings, keys, first, looked_at, list(columns))
    mapping = _with_photos(make_mapping(keys, list(columns), settings.source), source)
    mapping = with_shown_by_values(mapping, PlannedRows(source, mapping, joined, settings.limit))
    rows = PlannedRows(source, mapping, joined, settings.limit)
    if not mapping.images and settings.images:
        if set(columns) - _mapped(mapping):
            raise no_pictures(settings, rows)
        note(f"every column of {settings.source} is a field, so there are no pictures: the catalogue is text alone")
    extras = _extras(mapping, columns)
    schema = chunk_schema(mapping, {name: _carried_type(columns[column]) for name, column in extras.items()})
    if chat is not None:
        schema = schema.append(pa.field(TURNS, TURNS_TYPE))
        chat = chat if not chat.given else ChatPrompt(chat.question, mapping.photos_per_row(), given=True)
    chosen = {name: getattr(settings, name) for name in _MATTERS}
    chosen |= {name: value for name in _MATTERS_IF_SET if (value := getattr(settings, name)) not in (None, False)}
    rules = ValueRules(
        settings.strip_html, settings.empty_words, read_rates(settings.currency_rates) if settings.currency_rates else None
    )
    chosen |= rules.to_dict()
    task, given = mapping.task(), _given(settings)
    return IngestPlan(source, mapping, task, extras, schema, chosen, rows, columns, rules, export, chat, given)


# What decides the content of a catalogue beside source and mapping; the second ones as far as they are set.
_MATTERS = ("validation", "test", "seed", "near_duplicates", "csv", "max_bytes", "max_pixels", "min_side", "preset",
            "encoding", "delimiter")  # fmt: skip
_MATTERS_IF_SET = ("limit", "on", "keep_shared_photos")
# What does not decide it: where things are, how fast they come, what is shown.
_FREE = {"source", "output", "processes", "downloads", "connections", "per_host", "timeout", "retries", "allow_private",
         "allow_hosts", "json", "dry_run", "streaming"}  # fmt: skip
_FEW_SHORT = 0.1  # of the rows may lack a photo and be rejected for it
_NO_MAPPING = FieldMapping((), (), None, None, None, None)


def _refuse_export(source: str) -> None:
    """`export.restore` makes an exported catalogue again; as tables its files would be read wrongly."""
    if (Path(source).expanduser() / EXPORT_FILE).is_file():
        raise UserError(
            f"{source} is an exported catalogue, which is made again as it is; leave out the flags that decide its content, or "
            f"give {Path(source) / 'data'} to read its rows as a table"
        )


def is_plain(settings: IngestConfig) -> bool:
    """Whether nothing is set that decides the content, but the revision of a data set: its own record may decide it."""
    fields = {item.name: item for item in dataclasses.fields(settings) if item.name not in {*_FREE, "revision", "model"}}
    return all(
        getattr(settings, name) == (item.default_factory() if callable(item.default_factory) else item.default)
        for name, item in fields.items()
    )


def _given(settings: IngestConfig) -> dict[str, Any]:
    """All settings but the free ones, by their text: one that is added later counts until it is known to be free."""
    return {item.name: repr(getattr(settings, item.name)) for item in dataclasses.fields(settings) if item.name not in _FREE}


def _with_own_preset(settings: IngestConfig) -> IngestConfig:
    """The settings with the preset that a folder brings, as `mlx_phi3v.serve` writes one, where the user names none.

    Its values are taken as they are: they were typed as they are meant.
    """
    _refuse_export(settings.source)
    found = Path(settings.source).expanduser() / INGEST_FILE
    if settings.preset is not None or not found.is_file():
        return settings
    note(f"its columns are read as {found} says; --preset none turns that off")
    return dataclasses.replace(settings, preset=str(found), strip_html=False, empty_words=False)


def _with_known_columns(
    settings: IngestConfig, own: dict[str, Any], table: Table, rows: PlannedRows, columns: list[str]
) -> tuple[dict[str, Any], str | None]:
    """The keys for what names and values of columns show, and the known export that they are."""
    keys, export = with_preset(own, columns, settings.preset, table)
    if "image" not in keys and settings.preset != "none":
        keys |= photos_by_value(settings, rows, columns)
    by_value = export is None or not keys.get("fields")  # a known export may say only where its photos are
    if settings.preset is None and not own.get("fields") and by_value and table.kind != "images":
        keys["fields"] = with_fields_by_value(keys.get("fields") or {}, rows, columns, settings.source)
    return keys, export


def _joined(settings: IngestConfig, source: Source) -> JoinedTable | None:
    if settings.join is None or settings.on is None:
        return None
    if not settings.join.is_file():
        raise UserError(f"--join {settings.join} is no file; give a table")
    table = open_table(settings.join, Reading(settings.encoding, quick=settings.dry_run is not None))
    return JoinedTable(table, settings.join, settings.on, source.columns)


def _with_photos(mapping: FieldMapping, source: Source) -> FieldMapping:
    """The mapping with what the first rows say of several photos, where the user does not.

    With `--photos all` and one column the prompt shows as many as at least half of the rows have. Of several columns
    each photo has a row, where the prompt shows one, or where many rows have fewer photos than there are columns.
    """
    all_of_one = mapping.photos == "all" and len(mapping.images) == 1
    of_several = mapping.photos is None and len(mapping.images) > 1
    if not all_of_one and not of_several:
        return mapping
    found = [row_references(mapping, row.values) for row in first_rows(source.rows()) if isinstance(row.values, dict)]
    counts = sorted((len(references) for references in found if references), reverse=True)
    if all_of_one:
        return dataclasses.replace(mapping, shown=counts[len(counts) // 2] if counts else 1)
    shown = mapping.photos_per_row()
    short = sum(count < shown for count in counts)
    if counts and (shown == 1 < counts[0] or (shown > 1 and mapping.prompt_is_open() and short > _FEW_SHORT * len(counts))):
        note(f"rows have {counts[-1]} to {counts[0]} photos, so each photo has a row; --photos all or first says otherwise")
        return dataclasses.replace(mapping, photos="rows", shown=1)
    return mapping


def _mapped(mapping: FieldMapping) -> set[str | None]:
    """The columns that are in use, and so hold no pictures."""
    fields = (column for field in mapping.fields for column in (*field.columns, field.currency_column))
    return {*fields, mapping.code, mapping.split, mapping.group}


def _chat_prompt(table: ChatTable, keys: Mapping[str, Any]) -> ChatPrompt:
    """What the task asks: the user's prompt, or what the first usable row does."""
    if keys.get("prompt"):
        return ChatPrompt(" ".join(str(keys["prompt"]).split()), 1, given=True)
    first = table.first_turn()
    return ChatPrompt(first.question, first.images, given=False)


def _require_columns(keys: Mapping[str, Any], columns: Mapping[str, pa.DataType], source: str) -> None:
    """Raise UserError where fields are named that are no columns: they can only be in the answers."""
    fields = keys.get("fields") or {}
    own = {name: spec.get("column", name) if isinstance(spec, Mapping) else spec or name for name, spec in fields.items()}
    lacking = [name for name, column in own.items() if column_of(str(column), columns) is None]
    if lacking:
        example = ", ".join(f"{name.title()}: {{{name}}}" for name in own)
        raise UserError(
            f'the rows of {source} are conversations and have no column {lacking[0]!r}; give --template, such as "{example}", '
            "to read the fields out of the answers"
        )


def _answer_task(keys: Mapping[str, Any]) -> Task | None:
    """The task that reads chat answers back into fields, where the user names fields and a template."""
    fields = keys.get("fields") or {}
    if not (fields and keys.get("template")):
        return None
    own = {name: {**(spec if isinstance(spec, Mapping) else {}), "column": name} for name, spec in fields.items()}
    return make_mapping({"fields": own, "template": keys["template"]}, list(own), "the answers").task()


def _extras(mapping: FieldMapping, columns: Mapping[str, pa.DataType]) -> dict[str, str]:
    """The columns to carry along, by their name in the catalogue."""
    used = {field.column for field in mapping.fields if not field.further and field.step is None}
    photos = {column_of(path, columns) for path in mapping.image_columns()}
    taken = {"id", "images", *(field.name for field in mapping.fields)}
    extras = {}
    for column, kind in columns.items():
        if column in used or (column in photos and not pa.types.is_string(kind)):
            continue  # the field holds it, or it is the photo itself
        name = column
        while name in taken or name.startswith("_"):
            name = f"source_{name.lstrip('_')}"
        taken.add(name)
        extras[name] = column
    return extras


def _carried_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
