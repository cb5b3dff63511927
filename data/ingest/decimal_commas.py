"""The decimal comma of a column, where some of its values show it and others could be read both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from mlx_phi3v.progress import note

from .columns import field_source
from .field_spec import MappedField
from .mapping import FieldMapping
from .prices import CENTS_BEHIND_COMMA, DecimalMark, PriceError, parse_price
from .source_tables import RawRow, first_values

_LOOKED_AT = 1000  # rows


def with_decimal_commas(mapping: FieldMapping, rows: Iterable[RawRow]) -> FieldMapping:
    """The mapping, its number fields with the decimal comma that their first values show.

    A comma is taken where `1.299` could be one or a thousand, another value has cents behind a comma, and no value that can
    be read without knowing the mark would be read otherwise.
    """
    open_fields = [field for field in mapping.fields if field.kind == "number" and field.decimal is None]
    if not open_fields:
        return mapping
    values = first_values(rows, _LOOKED_AT)
    found = {field.name for field in open_fields if _shows_comma(field, (field_source(field, row) for row in values))}
    for name in sorted(found):
        note(
            f'{name} has a decimal comma, as others of its values show, so 1.299 is a thousand; YAML with decimal: "." differs'
        )
    fields = (dataclasses.replace(field, decimal=",") if field.name in found else field for field in mapping.fields)
    return dataclasses.replace(mapping, fields=tuple(fields)) if found else mapping


def _shows_comma(field: MappedField, values: Iterable[Any]) -> bool:
    texts = {value for value in values if isinstance(value, str)}
    plain = {text: _read(text, field, None) for text in texts}
    if "price_ambiguous" not in plain.values() or not any(map(CENTS_BEHIND_COMMA.search, texts)):
        return False
    return all(isinstance(found, str) or _read(text, field, ",") == found for text, found in plain.items())


def _read(text: str, field: MappedField, decimal: DecimalMark | None) -> Decimal | str:
    """The amount, or the reason why there is none."""
    try:
        return parse_price(text, currency=field.currency, decimal=decimal).amount
    except PriceError as error:
        return error.reason
