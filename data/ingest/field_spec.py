"""One field of a mapping as YAML or a flag gives it, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlx_phi3v.cli import unknown_key
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import short
from mlx_phi3v.task import FieldKind

from .amounts import DecimalMark

KINDS = ("text", "category", "number")
_KEYS = (
    "column",
    "columns",
    "kind",
    "currency",
    "currency_column",
    "decimal",
    "required",
    "step",
    "separator",
    "one_hot",
    "untaxed",
    "quoted",
)
_RESERVED = ("id", "images")


@dataclass(frozen=True)
class MappedField:
    """One field of the task and the column it is read from.

    Of a number: `decimal` is its decimal mark, `currency_column` the column of its currency. `further` columns are read
    where the ones before are empty. Of a path such as `Home > Shelves`, cut at `separator` or at the usual signs, `step`
    is the part to take: from 1, or from -1 for the last; None takes all of it. `one_hot`: the value is the name of the one
    of its columns that has a 1. `untaxed`: all of its values say that a tax comes on top. `quoted`: they are JSON
    strings, with their quotes.
    """

    name: str
    column: str
    kind: FieldKind = "text"
    currency: str | None = None
    decimal: DecimalMark | None = None
    required: bool = False
    further: tuple[str, ...] = ()
    step: int | None = None
    separator: str | None = None
    currency_column: str | None = None
    one_hot: bool = False
    untaxed: bool = False
    quoted: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns it is read from, in order."""
        return (self.column, *self.further)


def parse_field_flag(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME=COLUMN|COLUMN:KIND:CURRENCY` of the flag `--field` -> (name, its YAML form). Kind and currency may be left out.

    A column's name may hold a colon if a space follows it, or if the kind is given.
    Raises UserError if the text is not of this form.

    >>> parse_field_flag("price=Sale price|Regular price:number:USD")
    ('price', {'column': 'Sale price|Regular price', 'kind': 'number', 'currency': 'USD'})
    >>> parse_field_flag("brand=Meta: brand")
    ('brand', {'column': 'Meta: brand'})
    """
    name, mark, rest = text.partition("=")
    column, kind, currency = _cut_flag(rest)
    if not mark or not name or not column:
        raise UserError(
            f"--field {text!r} is not of the right form; write NAME=COLUMN:KIND, such as price=full_price:number:USD"
        )
    given = {"column": column, "kind": kind, "currency": currency}
    return name, {key: value for key, value in given.items() if value is not None}


def _cut_flag(rest: str) -> tuple[str, str | None, str | None]:
    pieces = rest.split(":")
    if len(pieces) > 2 and pieces[-2] in KINDS:
        return ":".join(pieces[:-2]), pieces[-2], pieces[-1]
    if len(pieces) > 1 and (pieces[-1] in KINDS or not pieces[-1].startswith(" ")):
        # An unknown kind is reported as one, unless a space shows that it is part of a name.
        return ":".join(pieces[:-1]), pieces[-1], None
    return rest, None, None


def fields_of(settings: Mapping[str, Any], where: str) -> tuple[MappedField, ...]:
    """The fields of the key `fields`, their columns as written. Raises UserError for one that makes no sense."""
    fields = settings.get("fields") or {}
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: fields is {short(fields)}; write one line per field, such as title: {{column: name}}")
    return tuple(_field(name, spec, settings.get("currency"), where) for name, spec in fields.items())


def _field(name: Any, spec: Any, currency: str | None, where: str) -> MappedField:
    said = f"{where}: field {short(name)}"
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or name in _RESERVED:
        raise UserError(
            f"{where}: a field cannot be named {short(name)}; begin with a letter, go on with letters, digits and _, "
            f"and take neither {' nor '.join(_RESERVED)}"
        )
    if not isinstance(spec, Mapping):
        spec = {} if spec is None else {"column": spec}
    for key in spec:
        if key not in _KEYS:
            raise UserError(f"{where}: {unknown_key(str(key), _KEYS, f'field {name!r}')}")
    kind = spec.get("kind", "number" if spec.get("currency") else "text")
    if kind not in KINDS:
        raise UserError(
            f"{said} is of kind {short(kind)}; choose {', '.join(KINDS)}; a column with a colon needs its kind behind"
        )
    columns = _columns(name, spec, said)
    number = kind == "number"
    _check_number_keys(spec, number, kind, said)
    one_hot = _true_or_false("one_hot", spec, said)
    if one_hot and (number or len(columns) < 2 or spec.get("step") is not None):
        raise UserError(f"{said} has one_hot, so it is a category or text of several columns: columns: [bag, hat]")
    untaxed = _true_or_false("untaxed", spec, said)
    if untaxed and not number:
        raise UserError(f"{said} has untaxed but is of kind {kind}; only a number can have a tax")
    return MappedField(
        name,
        columns[0],
        cast(FieldKind, kind),
        (_currency(spec.get("currency"), said) or currency) if number else None,
        cast("DecimalMark | None", spec.get("decimal")),
        _true_or_false("required", spec, said),
        columns[1:],
        *_step(spec, said),
        column_text(spec["currency_column"], f"{said}: currency_column") if spec.get("currency_column") else None,
        one_hot,
        untaxed,
        _true_or_false("quoted", spec, said),
    )


def _true_or_false(key: str, spec: Mapping[str, Any], said: str) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):  # in YAML 1.1 no is false, in 1.2 a word: neither is guessed
        raise UserError(f"{said} has {key} {short(value)}; write {key}: true or {key}: false")
    return value


def _check_number_keys(spec: Mapping[str, Any], number: bool, kind: Any, said: str) -> None:
    decimal = spec.get("decimal")
    if decimal not in (None, ".", ","):
        raise UserError(f'{said} has decimal {short(decimal)}; write decimal: "." or decimal: ","')
    if not number and (spec.get("currency") or spec.get("currency_column") or decimal):
        raise UserError(f"{said} has a currency or decimal mark but is of kind {kind}; only a number can have one")
    if number and (spec.get("step") is not None or spec.get("separator") is not None):
        raise UserError(f"{said} has a step or separator but is a number; only text and categories are cut into steps")


def _columns(name: str, spec: Mapping[str, Any], said: str) -> tuple[str, ...]:
    if "column" in spec and "columns" in spec:
        raise UserError(f"{said} has both column and columns; give one of them")
    listed = spec["columns"] if "columns" in spec else [spec.get("column", name)]
    if not isinstance(listed, (list, tuple)) or not listed:
        raise UserError(f"{said} has columns {short(listed)}; write a list of at least one, such as [sale_price, price]")
    return tuple(column_text(item, f"{said}: column") for item in listed)


def _step(spec: Mapping[str, Any], said: str) -> tuple[int | None, str | None]:
    step, separator = spec.get("step"), spec.get("separator")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step == 0 or abs(step) > 1000):
        raise UserError(f"{said} has step {short(step)}; write 1 for the first part of the path, or -1 for the last")
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise UserError(f'{said} has separator {short(separator)}; write the text between the steps, such as " > "')
    return (int(step) if step is not None else None), separator


def column_text(value: Any, said: str) -> str:
    """A column's name; one of digits as it was written. Raises UserError for anything but a word."""
    text = getattr(value, "text", value)
    if isinstance(text, str) and text:
        return text
    raise UserError(f"{said} is {short(value)}; it must be a column's name")


def _currency(value: Any, said: str) -> str | None:
    if value is None or (isinstance(value, str) and value and value.isprintable() and len(value) <= 40):
        return value
    raise UserError(f"{said} has currency {short(value)}; write its ISO code, such as USD")
