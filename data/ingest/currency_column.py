"""The column that holds the currency of a price."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .column_names import named_column
from .field_spec import MappedField

_USUAL = ("currency", "currencycode", "pricecurrency", "currencyiso", "waehrung", "währung", "devise", "moneda", "valuta")


def with_currency_column(field: MappedField, columns: Sequence[str], where: str) -> MappedField:
    """A number field with the column of its currency: the one it names, else one that is usual, else none.

    Usual are `currency` and the like, and first of all what stands beside the price: `price.currency`, `price_currency`.
    Raises UserError for a named column that the source has not.
    """
    if field.currency_column:
        return dataclasses.replace(field, currency_column=named_column(field.currency_column, columns, where))
    if field.kind != "number":
        return field
    folded = {_folded(name): name for name in reversed(columns)}
    beside, _, _ = field.column.rpartition(".")
    names = [f"{_folded(beside)}.{name}" for name in _USUAL] if beside else []
    names += [_folded(field.column) + name for name in _USUAL[:2]]
    usual = next((folded[name] for name in (*names, *_USUAL) if name in folded), None)
    return dataclasses.replace(field, currency_column=usual if usual not in field.columns else None)


def _folded(name: str) -> str:
    return name.casefold().replace("_", "").replace(" ", "").replace("-", "")
