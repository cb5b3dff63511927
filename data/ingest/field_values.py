"""The value of one field from a cell: text made readable, prices read in their currency, with notes of what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mlx_phi3v.task import is_missing

from .amounts import PriceError
from .currencies import currency_code, decimals, is_currency
from .mapping import MappedField
from .notes import Note
from .prices import Price, parse_price
from .text import normalise
from .values import is_nothing, may_be_nothing, price_parts, readable, unquoted, without_html


@dataclass(frozen=True)
class ValueRules:
    """How cells are read. rates: code -> worth of one unit in the field's currency; None: prices are not converted."""

    html: bool = True
    empty_words: bool = True
    rates: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is not as usual, as `catalogue.json` holds it."""
        found: dict[str, Any] = {} if self.html else {"strip_html": False}
        found |= {} if self.empty_words else {"empty_words": False}
        return found | ({} if self.rates is None else {"currency_rates": dict(self.rates)})

    def is_empty(self, value: Any) -> bool:
        """Whether a cell holds no value: blank, or a word for nothing."""
        if isinstance(value, str):
            if not may_be_nothing(value):  # most cells; this is asked of every one
                return False
            return not value or value.isspace() or (self.empty_words and is_nothing(value))
        return is_missing(value) or (self.empty_words and is_nothing(value))


_MOST_CHARACTERS = 1_000_000  # of a text: more than 131,072 tokens hold


class FieldError(Exception):
    """A required field without a usable value, or a text too long to learn; `reason`: a short word, `value`: the cause."""

    def __init__(self, reason: str, value: Any = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value


def field_value(field: MappedField, cell: Any, currency: Any, rules: ValueRules, notes: list[Note]) -> str | float | None:
    """The value of `field` from its cell; `currency` is that of the row's currency column.

    What was read as missing, what could not be read and the currencies found are added to `notes`. Raises FieldError where
    a required field has no value.
    """
    if field.quoted:
        cell = unquoted(cell)
    if rules.is_empty(cell):
        if isinstance(cell, str) and cell.strip():
            notes.append(Note(field.name, "empty", cell.strip()))
        value = None
    elif field.kind == "number":
        return _number(field, cell, currency, rules, notes)
    elif isinstance(cell, str) and len(cell) > _MOST_CHARACTERS:
        raise FieldError("text_too_long", f"{field.name}: {len(cell):,} characters")
    else:
        value = text_value(cell, rules, path=field.kind == "category")
    if value is None and field.required:
        raise FieldError(f"{field.name}_missing")
    return value


def text_value(cell: Any, rules: ValueRules, *, path: bool = False) -> str | None:
    """A cell as one line of clean text, None where it has none. `path`: a list is the steps of a category."""
    text = cell if isinstance(cell, str) and cell[:1] not in "[{" else readable(cell, path=path, words=rules.empty_words)
    if text is None:
        return None
    if rules.html and ("<" in text or "&" in text):
        text = without_html(text)
    return normalise(text) or None


def _number(field: MappedField, cell: Any, currency: Any, rules: ValueRules, notes: list[Note]) -> float | None:
    given = cell
    if not isinstance(cell, (int, float, Decimal)):
        if not isinstance(cell, str) or cell.lstrip()[:1] in ("[", "{"):
            cell, own = price_parts(cell)
            currency = own or currency
        if isinstance(cell, str) and rules.html and ("<" in cell or "&" in cell):
            cell = without_html(cell)
    try:
        if cell is not given and rules.is_empty(cell):
            raise PriceError("price_empty")
        price = _price(field, cell, currency_code(currency) if currency is not None else None, rules)
        if price.untaxed and not field.untaxed:
            raise PriceError("price_without_tax")  # beside others with tax it is too low
    except PriceError as error:
        if field.required:
            raise FieldError(error.reason, cell) from None
        notes.append(Note(field.name, "unread", error.reason, str(cell)[:200]))
        return None
    if price.rounded:
        notes.append(Note(field.name, "rounded", "scientific"))
    if field.currency is None and price.sign is not None:
        notes.append(Note(field.name, "currency", price.sign))
    return float(price.amount)


def _price(field: MappedField, cell: Any, code: str | None, rules: ValueRules) -> Price:
    """The price in the field's currency, where it has one. `code` is the currency that the row names."""
    wanted = field.currency.upper() if field.currency else None
    if code is None and wanted is not None:
        try:
            return parse_price(cell, currency=wanted, decimal=field.decimal)
        except PriceError as error:
            if rules.rates is None or error.reason != "price_currency":
                raise
        found = parse_price(cell, decimal=field.decimal)
        code = found.currency or (found.sign if found.sign and is_currency(found.sign) else None)
        if code is None:
            raise PriceError("price_currency")
    price = parse_price(cell, currency=code, decimal=field.decimal)
    if wanted is None or code == wanted:
        return dataclasses.replace(price, sign=code or price.sign)
    if rules.rates is None:
        raise PriceError("price_currency")
    rate = rules.rates.get(code or "")
    if rate is None:
        raise PriceError("price_no_rate")
    amount = price.amount * Decimal(str(rate))
    return dataclasses.replace(price, amount=round(amount, decimals(wanted)), currency=wanted, sign=wanted)
