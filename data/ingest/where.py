"""Conditions on the rows of a source, such as `Published == 1`: compared, never evaluated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import short
from mlx_phi3v.task import is_missing

from .paths_in_row import resolve

_CONDITION = re.compile(r"\s*(?P<column>[^=!<>].*?)\s*(?P<sign>==|!=|<=|>=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@dataclass(frozen=True)
class Condition:
    """A row is taken where its `column` compares with one of `values` as `sign` says.

    Numbers are compared as numbers, other values as text without regard to case. "" is no value.
    """

    column: str
    sign: str
    values: tuple[str, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is taken."""
        value = resolve(row, self.column)
        found = any if self.sign != "!=" else all
        return found(self._compare(value, wanted) for wanted in self.values)

    def _compare(self, value: Any, wanted: str) -> bool:
        left, right = _number(value), _number(wanted)
        if left is not None and right is not None:
            return _SIGNS[self.sign](left, right)
        if self.sign in ("<", "<=", ">", ">=") and (right is not None or is_missing(value)):
            return False  # a word beside a number, or nothing
        return _SIGNS[self.sign](_word(value), _word(wanted))

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {', '.join(self.values)}"


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value) if isinstance(value, (int, float)) or (isinstance(value, str) and value.isascii()) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _word(value: Any) -> str:
    return "" if is_missing(value) else str(value).strip().casefold()


def conditions(value: Any, where: str) -> tuple[Condition, ...]:
    """The key `where`: `{Published: 1}`, `{Type: [simple, variation]}`, "Price > 5", or a list of these; all must hold.

    Raises UserError for one that cannot be read.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return tuple(_equals(column, wanted, where) for column, wanted in value.items())
    listed: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    return tuple(item for part in listed for item in (conditions(part, where) if isinstance(part, Mapping) else [_read(part)]))


def _equals(column: Any, wanted: Any, where: str) -> Condition:
    listed = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not isinstance(column, str) or not column or not listed or any(isinstance(item, (dict, list)) for item in listed):
        raise UserError(
            f"where in {where} has {short(column)}: {short(wanted)}; write a column and a value, such as Published: 1"
        )
    return Condition(column, "==", tuple(text for item in listed for text in _texts(item)))


def _texts(value: Any) -> tuple[str, ...]:
    """The texts that a YAML value stands for in a table."""
    if isinstance(value, bool):
        return ("1", "true", "yes") if value else ("0", "false", "no")
    return ("" if value is None else str(getattr(value, "text", value)),)


def _read(text: Any) -> Condition:
    """
    >>> _read("Published == 1"), _read("Brand != 'Acme'")
    (Condition(column='Published', sign='==', values=('1',)), Condition(column='Brand', sign='!=', values=('Acme',)))
    """
    found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UserError(
            f"--where {short(text)} is no condition; write COLUMN == VALUE, such as 'Published == 1' (also !=, <, <=, >, >=)"
        )
    column, value = _unquoted(found["column"]), _unquoted(found["value"])
    return Condition(column, "==" if found["sign"] == "=" else found["sign"], (value,))


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
