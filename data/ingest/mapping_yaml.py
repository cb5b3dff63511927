"""A mapping as the YAML that says the same, for `--config`."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from .field_spec import MappedField
from .ingest_config import IngestConfig
from .mapping import FieldMapping
from .where import Condition

# Settings beside the mapping that decide what is read, as far as they are not the default.
_READING = (
    "encoding",
    "delimiter",
    "join",
    "on",
    "limit",
    "validation",
    "test",
    "seed",
    "near_duplicates",
    "keep_shared_photos",
)


def mapping_yaml(mapping: FieldMapping, settings: IngestConfig) -> str:
    """The settings of an ingest with every column named and no preset, so that nothing has to be found again."""
    keys: dict[str, Any] = {"preset": "none", "fields": {field.name: _field(field) for field in mapping.fields}}
    if mapping.images:
        image: dict[str, Any] = {"column": mapping.images[0]} if len(mapping.images) == 1 else {"columns": list(mapping.images)}
        keys["image"] = image | ({"separator": mapping.separator} if mapping.separator else {})
    else:
        keys["images"] = False
    for name in ("photos", "code", "split", "image_root", "prompt", "template"):
        if (value := getattr(mapping, name)) is not None:
            keys[name] = value
    if mapping.group:
        group = {"column": mapping.group, "key": mapping.group_key, "continued": mapping.group_continued or None}
        said = {name: value for name, value in group.items() if value}
        keys["group"] = said if len(said) > 1 else mapping.group
    if mapping.where:
        keys["where"] = [_condition(item) for item in mapping.where]
    for field in dataclasses.fields(IngestConfig):
        value = getattr(settings, field.name)
        if field.name in _READING and value != field.default:
            keys[field.name] = value if isinstance(value, (bool, int, float)) else str(value)
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=120)


def _field(field: MappedField) -> dict[str, Any]:
    spec: dict[str, Any] = {"columns": list(field.columns)} if field.further else {"column": field.column}
    spec["kind"] = field.kind
    for item in dataclasses.fields(MappedField):
        value = getattr(field, item.name)
        if item.name not in ("name", "column", "further", "kind") and value != item.default:
            spec[item.name] = value
    return spec


def _condition(item: Condition) -> Any:
    if item.sign == "==":
        return {item.column: list(item.values) if len(item.values) > 1 else item.values[0]}
    return f"{item.column} {item.sign} {item.values[0]!r}"
