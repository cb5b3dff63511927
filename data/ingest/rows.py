"""One raw row of a source checked against the mapping: a row of the catalogue, or a reason to leave it out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue import SIZES
from mlx_phi3v.task import is_missing

from ..writer import store_picture
from .mapping import FieldMapping, MappedField
from .near_duplicates import picture_print
from .pictures import CleanPicture, PictureError, clean_picture, picture_references, reference_bytes
from .prices import PriceError, parse_price
from .sources import SPLIT_NAMES, RawRow
from .stage import CHANGED, CODE, LEFT_OUT, PRINTS, ROW, SPLIT, Stage
from .tables import Fault
from .text import normalise


class RejectedError(Exception):
    """A row that is left out; `reason` is a short fixed word, `value` what was wrong."""

    def __init__(self, reason: str, value: Any = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = str(value)[:200]


def check_row(stage: Stage, row: RawRow) -> dict[str, Any]:
    """One row as staged, its pictures stored. Raises RejectedError with the first thing wrong."""
    values = row.values
    if isinstance(values, Fault):
        raise RejectedError(values)
    mapping = stage.mapping
    if stage.question is not None and values.get("question") != stage.question:
        raise RejectedError("other_question", values.get("question"))
    staged: dict[str, Any] = {"id": f"{row.number:07d}", ROW: row.number, SPLIT: _split(mapping, row)}
    staged |= {field.name: _field_value(field, values.get(field.column)) for field in mapping.fields}
    if all(staged[field.name] is None for field in mapping.fields):
        raise RejectedError("no_field_has_a_value")
    code = values.get(mapping.code) if mapping.code else None
    staged[CODE] = None if is_missing(code) else normalise(str(code))
    staged |= {name: _carried(values.get(column), stage.schema.field(name).type) for name, column in stage.extras.items()}
    pictures = _pictures(stage, row, values) if mapping.images else []
    staged["images"] = [store_picture(stage.work / "catalogue", picture.data, picture.suffix) for picture in pictures]
    staged[SIZES] = [dict(zip(("width", "height"), picture.image.size)) for picture in pictures]
    staged[PRINTS] = [picture_print(picture.image) if stage.near_duplicates else b"" for picture in pictures]
    staged[CHANGED] = sum(picture.changed for picture in pictures)
    staged[LEFT_OUT] = len(list(row_references(mapping, values))) - len(pictures)
    return staged


def _split(mapping: FieldMapping, row: RawRow) -> str | None:
    if mapping.split is None:
        return row.split
    assert not isinstance(row.values, Fault)
    value = row.values.get(mapping.split)
    if is_missing(value):
        raise RejectedError("split_missing")
    name = SPLIT_NAMES.get(str(value).strip().lower())
    if name is None:
        raise RejectedError("split_unknown", value)
    return name


def _field_value(field: MappedField, value: Any) -> str | float | None:
    if field.kind != "number":
        text = None if is_missing(value) else normalise(value if isinstance(value, str) else str(value))
        if not text and field.required:
            raise RejectedError(f"{field.name}_missing")
        return text or None
    if is_missing(value):
        if field.required:
            raise RejectedError(f"{field.name}_missing")
        return None
    try:
        return float(parse_price(value, currency=field.currency, decimal=field.decimal).amount)
    except PriceError as error:
        raise RejectedError(error.reason, value) from None


def _carried(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    # A lone surrogate, as broken JSON escapes make it, cannot be stored as UTF-8.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def row_references(mapping: FieldMapping, values: Mapping[str, Any]) -> Iterator[Any]:
    """The pictures that a row names, in the order of the image columns."""
    for column in mapping.images:
        yield from picture_references(values.get(column))


def _pictures(stage: Stage, row: RawRow, values: Mapping[str, Any]) -> list[CleanPicture]:
    references = list(row_references(stage.mapping, values))
    if len(references) < stage.pictures_per_row:
        raise RejectedError("picture_missing_in_row" if not references else "too_few_pictures", len(references))
    root = Path(row.root) if row.root else None
    try:
        return [
            clean_picture(reference_bytes(reference, root, stage.store.read, stage.limits), stage.limits)
            for reference in references[: stage.pictures_per_row]
        ]
    except PictureError as error:
        raise RejectedError(error.reason, error.detail) from None
