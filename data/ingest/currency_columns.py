"""The column that holds the currency of a number field, where the source has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .column_names import first_column, named_column
from .field_spec import MappedField

_USUAL = (
    "currency",
    "currency code",
    "price currency",
    "currency iso",
    "currency id",
    "waehrung",
    "währung",
    "devise",
    "moneda",
    "valuta",
)


def with_currency_column(field: MappedField, columns: Sequence[str], where: str) -> MappedField:
    """A number field with the usual column of currencies, if it names none: `currency`, or one beside the price.

    Raises UserError for a column that the source does not have.
    """
    if field.currency_column:
        return dataclasses.replace(field, currency_column=named_column(field.currency_column, columns, where))
    if field.kind != "number":
        return field
    beside, _, _ = field.column.rpartition(".")
    names = [f"{beside}.{name}" for name in _USUAL] if beside else []
    usual = first_column([*names, *(f"{field.column} {name}" for name in _USUAL[:2]), *_USUAL], columns)
    return dataclasses.replace(field, currency_column=usual if usual not in field.columns else None)
