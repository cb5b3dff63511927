"""One raw row of a source checked against the mapping: a row of the catalogue, or a reason to leave it out."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue import SIZES
from mlx_phi3v.task import is_missing
from mlx_phi3v.text import storable
from mlx_phi3v.turns import TURNS

from ..writer import store_photo
from .chat import ChatPrompt, own_turns
from .chunk_store import CHANGED, CODE, FINGERPRINTS, GROUP, LEFT_OUT, NOTES, ROW, SPLIT
from .columns import field_source
from .download_store import DownloadStore
from .field_values import FieldError, ValueRules, field_value
from .mapping import FieldMapping
from .near_duplicates import fingerprint
from .notes import Note
from .paths_in_row import resolve
from .photo_roots import PhotoRoots
from .photos import CleanPhoto, PhotoLimits, PhotoUnusableError, clean_photo, reference_bytes
from .picture_references import as_url
from .row import RowError
from .row_references import row_references
from .sources import RawRow
from .split_values import split_of
from .splits import row_id
from .text import normalise


class RejectedError(Exception):
    """A row that is left out; `reason` is a short fixed word, `value` what was wrong."""

    def __init__(self, reason: str, value: Any = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = str(value)[:200]


@dataclass(frozen=True)
class RowChecks:
    """What a row is checked against. `extras` are the columns carried along: name in the catalogue -> source column."""

    mapping: FieldMapping
    extras: Mapping[str, str]
    schema: pa.Schema  # of a checked row, see `chunk_store.chunk_schema`
    limits: PhotoLimits
    photos_per_row: int
    chat: ChatPrompt | None  # what the task asks, where rows are conversations
    store: DownloadStore  # photos fetched by URL
    near_duplicates: bool = True
    rules: ValueRules = dataclasses.field(default_factory=ValueRules)

    @functools.cached_property
    def field_names(self) -> tuple[str, ...]:
        """The names of the task's fields."""
        return tuple(field.name for field in self.mapping.fields)

    @functools.cached_property
    def carried(self) -> tuple[tuple[str, str, bool], ...]:
        """The columns carried along: name in the catalogue, column of the source, whether it holds text."""
        return tuple((name, column, pa.types.is_string(self.schema.field(name).type)) for name, column in self.extras.items())


def check_row(checks: RowChecks, row: RawRow, catalogue: Path) -> dict[str, Any]:
    """One row as a chunk holds it, its photos stored in `catalogue`. Raises RejectedError with the first thing wrong."""
    checked = check_fields(checks, row)
    photos = photos_of(checks, row, checked[NOTES]) if checks.mapping.images else []
    checked["images"] = [store_photo(catalogue, photo.data, photo.suffix) for photo in photos]
    checked[SIZES] = [dict(zip(("width", "height"), photo.image.size)) for photo in photos]
    checked[FINGERPRINTS] = [fingerprint(photo.image) if checks.near_duplicates else b"" for photo in photos]
    checked[CHANGED] = sum(photo.changed for photo in photos)
    checked[LEFT_OUT] = len(references_of(checks, row)) - len(photos) if checks.mapping.images else 0
    return checked


def check_fields(checks: RowChecks, row: RawRow) -> dict[str, Any]:
    """All of a checked row but its photos. Raises RejectedError with the first thing wrong."""
    values = row.values
    if isinstance(values, RowError):
        raise RejectedError(values, values.value)
    mapping = checks.mapping
    checked: dict[str, Any] = {"id": row_id(row.number), ROW: row.number, SPLIT: _split(mapping, row)}
    notes: list[Note] = []
    checked |= checked_fields(checks, values, notes)
    checked[NOTES] = notes
    if checks.chat is not None:
        turns = values[TURNS] if mapping.images else tuple(dataclasses.replace(turn, images=0) for turn in values[TURNS])
        checked[TURNS] = own_turns(turns, checks.chat, notes)
    if not any(checked[name] is not None for name in checks.field_names):
        raise RejectedError("no_field_has_a_value")
    code = resolve(values, mapping.code) if mapping.code else None
    is_empty = checks.rules.is_empty
    checked[CODE] = None if is_empty(code) else normalise(str(code))
    checked[GROUP] = None if row.group is None else normalise(row.group)
    for name, column, is_text in checks.carried:
        cell = values.get(column)
        if isinstance(cell, str):  # most are
            checked[name] = None if is_empty(cell) else storable(cell)
        else:
            checked[name] = _carried(cell, is_text)
    return checked


def references_of(checks: RowChecks, row: RawRow) -> list[Any]:
    """The photos that a row names: bytes, paths or URLs; the one that it shows, where each photo has a row."""
    if isinstance(row.values, RowError):
        return []
    references = row_references(checks.mapping, row.values)
    return references if row.photo is None else references[row.photo : row.photo + 1]


def photos_wanted(checks: RowChecks, row: RawRow) -> int:
    """How many photos a row shows: those of the task's prompt, or of its own turns."""
    if checks.chat is None or isinstance(row.values, RowError) or (checks.chat.given and "<|user|>" in checks.chat.question):
        return checks.photos_per_row
    return sum(turn.images for turn in row.values[TURNS]) or checks.photos_per_row


def urls_to_fetch(checks: RowChecks, row: RawRow) -> list[str]:
    """The URLs of the photos that a row needs; none of a row that is rejected for its fields."""
    references = references_of(checks, row)
    wanted = photos_wanted(checks, row)
    if len(references) < wanted:
        return []
    urls = [url for url in map(as_url, references[:wanted]) if url]
    if urls:
        check_fields(checks, row)
    return urls


def checked_fields(checks: RowChecks, values: Mapping[str, Any], notes: list[Note]) -> dict[str, str | float | None]:
    """The task's fields of a row; what was done to them is added to `notes`. Raises RejectedError."""
    if checks.chat is not None and checks.field_names == ("answer",):
        # What a conversation answers is learned as it is: JSON and HTML are what is asked for, and "None" may be right.
        return {"answer": normalise(str(values["answer"])) or None}
    try:
        return {
            field.name: field_value(
                field,
                field_source(field, values, checks.rules.is_empty),
                resolve(values, field.currency_column) if field.currency_column else None,
                checks.rules,
                notes,
            )
            for field in checks.mapping.fields
        }
    except FieldError as error:
        raise RejectedError(error.reason, error.value) from None


def _split(mapping: FieldMapping, row: RawRow) -> str | None:
    if mapping.split is None:
        return row.split
    assert not isinstance(row.values, RowError)
    value = resolve(row.values, mapping.split)
    if is_missing(value):
        raise RejectedError("split_missing")
    name = split_of(value, mapping.split)
    if name is None:
        raise RejectedError("split_unknown", value)
    return name


def _carried(value: Any, is_text: bool) -> Any:
    if is_text and value is not None and not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return storable(value) if isinstance(value, str) else value


def photos_of(checks: RowChecks, row: RawRow, notes: list[Note]) -> list[CleanPhoto]:
    """The photos that a row shows, clean; those found under a near name are added to `notes`.

    Raises RejectedError where there are too few, or one cannot be used.
    """
    references, wanted = references_of(checks, row), photos_wanted(checks, row)
    if len(references) < wanted:
        raise RejectedError("picture_missing_in_row" if not references else "too_few_pictures", len(references))
    roots = PhotoRoots(Path(row.root) if row.root else None, checks.mapping.image_folder())
    try:
        photos = [
            clean_photo(reference_bytes(reference, roots, checks.store.read, checks.limits), checks.limits)
            for reference in references[:wanted]
        ]
    except PhotoUnusableError as error:
        raise RejectedError(error.reason, error.detail) from None
    notes += [Note("image", "near_name", "differs") for _ in roots.near]
    return photos
