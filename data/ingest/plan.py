"""The plan of an ingest: its source, and the use of every column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import Task

from .chat import ChatTable
from .chunk_store import chunk_schema
from .ingest_config import IngestConfig
from .mapping import FieldMapping, make_mapping
from .sources import Source, open_source


@dataclass(frozen=True)
class IngestPlan:
    """All that decides the content of the catalogue; a run with another plan checks its rows again."""

    source: Source
    mapping: FieldMapping
    task: Task
    extras: Mapping[str, str]
    schema: pa.Schema
    settings: Mapping[str, Any]

    def digest(self) -> str:
        """Changes when the source's data, the mapping or a setting that matters does."""
        return sha256_json([self.source.identity, self.mapping.to_dict(), dict(self.extras), dict(self.settings)])


def make_plan(settings: IngestConfig) -> IngestPlan:
    """Open the source and decide the use of every column. Raises UserError for a source or mapping that does not fit."""
    keys = settings.mapping_keys()
    answer_task = _answer_task(keys)
    source = open_source(settings.source, encoding=settings.encoding, delimiter=settings.delimiter, answer_task=answer_task)
    columns = source.columns
    first = source.tables[0].table
    if isinstance(first, ChatTable):
        keys.setdefault("prompt", first.first_question())
        if not answer_task:
            keys = {"fields": {"answer": "answer"}, "template": "{answer}"} | keys
    mapping = make_mapping(keys, list(columns), settings.source)
    extras = _extras(mapping, columns)
    schema = chunk_schema(mapping, {name: _carried_type(columns[column]) for name, column in extras.items()})
    matters = ("validation", "test", "seed", "near_duplicates", "csv", "max_bytes", "max_pixels", "min_side", "preset",
               "encoding", "delimiter")  # fmt: skip
    chosen = {name: getattr(settings, name) for name in matters}
    return IngestPlan(source, mapping, mapping.task(), extras, schema, chosen)


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
            continue  # the field holds it, or it is the photo itself
        name = column
        while name in taken or name.startswith("_"):
            name = f"source_{name.lstrip('_')}"
        taken.add(name)
        extras[name] = column
    return extras


def _carried_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
