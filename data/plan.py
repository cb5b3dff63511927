"""What one run of data.ingest is to do: its settings, checked, and what becomes of every column of the source."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.photo import MAX_PIXELS, MIN_SIDE
from mlx_phi3v.task import Task

from .mapping import PRESETS, FieldMapping, load_preset, make_mapping, parse_field_flag
from .sources import Source, open_source
from .staging import stage_schema


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
    json: bool = option(False, help="print progress and the summary as JSON lines")
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


def check_settings(settings: IngestSettings) -> None:
    """Raise UserError for a value that makes no sense."""
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
