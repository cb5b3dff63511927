"""What the first values of a field show of all of them: JSON strings, a decimal comma, prices without tax."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mlx_phi3v.progress import note

from .amounts import DecimalMark, PriceError
from .column_names import folded
from .columns import field_source, is_blank
from .field_spec import MappedField
from .mapping import FieldMapping
from .paths_in_row import resolve
from .prices import CENTS_BEHIND_COMMA, parse_price
from .source_tables import RawRow, first_values
from .values import unquoted

_LOOKED_AT = 1000  # rows
# The sign for a lost letter, and UTF-8 that was read as cp1252: Ã¶ for ö, â‚¬ for €.
_LOST = re.compile("\ufffd|[ÃÂ][\u0080-¿ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]|â(?:€|‚¬)")
_LONGEST_NAME = 200  # characters
# How many pieces a price is for, as SAP's exports have it; and what says one.
_PIECES = {"pro", "per", "preiseinheit", "preismenge", "priceunit", "pricingunit", "pricequantity", "kpein", "peinh"}
_ONE = {"1", "1.0", "1,0", "1,00", "", "None"}
_SALE = re.compile(r"sale|special|promo|discount|offer|angebot|aktion|solde|oferta|rebaj|sconto|скид|セール", re.IGNORECASE)
_DATE = re.compile(r"date|from|start|end(?!er)|until|datum|von|bis|fecha|data|дата|期間", re.IGNORECASE)


def with_shown_by_values(mapping: FieldMapping, rows: Iterable[RawRow]) -> FieldMapping:
    """The mapping, its fields as JSON strings, with the decimal comma, or as prices without tax, where their values show it.

    Values are JSON strings where all are in quotes. A comma is taken where `1.299` could be one or a thousand, another value
    has cents behind a comma, and no value that can be read without knowing the mark would be read otherwise. Prices are
    without tax where each says so.
    """
    values = first_values(rows, _LOOKED_AT)
    fields = tuple(_as_shown(field, values) for field in mapping.fields)
    return mapping if fields == mapping.fields else dataclasses.replace(mapping, fields=fields)


def _as_shown(field: MappedField, rows: Sequence[Mapping[str, Any]]) -> MappedField:
    values = [field_source(field, row) for row in rows]
    cells = {value.strip() for value in values if isinstance(value, str)} - {""}
    if field.kind != "number" and (wrong := next(filter(_LOST.search, sorted(cells)), None)):
        note(f"warning: letters of {field.name} were lost before this file was made ({wrong[:40]!r}); export it again as UTF-8")
    if len(cells) > 1 and all(unquoted(cell) != cell for cell in cells):
        note(f"the values of {field.name} are JSON strings, whose quotes are no part of them")
        field, values = dataclasses.replace(field, quoted=True), [unquoted(value) for value in values]
    return _number_as_shown(field, values, rows) if field.kind == "number" else field


def _number_as_shown(field: MappedField, values: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> MappedField:
    texts = {value for value in values if isinstance(value, str)}
    if field.decimal is None and _shows_comma(field, texts):
        note(
            f"{field.name} has a decimal comma, as others of its values show, so 1.299 is a thousand; YAML with "
            'decimal: "." differs'
        )
        field = dataclasses.replace(field, decimal=",")
    if all(isinstance(value, str) or value is None for value in values) and _all_untaxed(field, texts):
        note(f"{field.name} is without tax, as its values say")
        field = dataclasses.replace(field, untaxed=True)
    if field.further and (dates := _dates_of_sales(rows)):
        note(
            f"{field.name} is read from {field.column} wherever it has a price, whatever {dates} says; "
            f"--field {field.name}=COLUMN:number reads another column alone"
        )
    columns = [name for row in rows[:1] for name in row if folded(name[:_LONGEST_NAME]) in _PIECES]
    if many := next((name for name in columns if {str(row.get(name)).strip() for row in rows} - _ONE), None):
        note(f"{field.name} is for as many pieces as {many} says, which is not looked at; --where '{many} == 1' takes one")
    return field


def _dates_of_sales(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first column with dates between which a sale price holds."""
    columns = dict.fromkeys(name for row in rows for name in row if len(name) <= _LONGEST_NAME)
    names = [name for name in columns if _SALE.search(name) and _DATE.search(name)]
    return next((name for name in names if any(not is_blank(resolve(row, name)) for row in rows)), None)


def _shows_comma(field: MappedField, texts: Iterable[str]) -> bool:
    plain = {text: _read(text, field, None) for text in texts}
    if "price_ambiguous" not in plain.values() or not any(map(CENTS_BEHIND_COMMA.search, plain)):
        return False
    return all(isinstance(found, str) or _read(text, field, ",") == found for text, found in plain.items())


def _read(text: str, field: MappedField, decimal: DecimalMark | None) -> Decimal | str:
    """The amount, or the reason why there is none."""
    try:
        return parse_price(text, currency=field.currency, decimal=decimal).amount
    except PriceError as error:
        return error.reason


def _all_untaxed(field: MappedField, texts: Iterable[str]) -> bool:
    """Whether there are prices, and each says that a tax comes on top."""
    found = False
    for text in texts:
        try:
            if not parse_price(text, currency=field.currency, decimal=field.decimal).untaxed:
                return False
        except PriceError:
            continue
        found = True
    return found
