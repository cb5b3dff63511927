"""A field's value in a row of the source: of the first of its columns that has one, or a step of a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from mlx_phi3v.task import is_missing

from .field_spec import MappedField
from .one_hot import class_of
from .paths_in_row import resolve
from .values import readable, unpacked

_BETWEEN_PATHS = re.compile(r"(?<!\\),\s*|\s*\|\s*")
_ZERO = re.compile(r"\D*0(?:[.,]?0)*\D*")
_LONGEST_PRICE = 40  # characters
_SEPARATORS = (" > ", ">", "＞", "::", " / ", "/", " | ", "|", "›", "»", "→", "\\")


def field_source(field: MappedField, values: Mapping[str, Any], is_empty: Callable[[Any], bool] = is_missing) -> Any:
    """What a field is read from, as the source has it; where all of its columns are empty, what the last one has.

    >>> price = MappedField("price", "sale", "number", further=("regular",))
    >>> field_source(price, {"sale": "", "regular": "20"})
    '20'
    >>> field_source(price, {"sale": "0.00", "regular": "20"}), field_source(price, {"sale": "0.00", "regular": ""})
    ('20', '0.00')
    """
    if not field.further and field.step is None and field.column in values:
        return values[field.column]
    if field.one_hot:
        return class_of(field.columns, values)
    value = zero = None
    for column in field.columns:
        value = resolve(values, column)
        if is_blank(value) or is_empty(value):
            continue
        if field.kind == "number" and field.further and _is_zero(value):
            zero = value if zero is None else zero  # a sale price of 0 beside a regular one is no sale
            continue
        return value if field.step is None else path_step(unpacked(value), field.step, field.separator)
    return value if zero is None else zero


def _is_zero(value: Any) -> bool:
    text = str(value) if isinstance(value, (int, float, str, Decimal)) and not isinstance(value, bool) else ""
    return len(text) <= _LONGEST_PRICE and _ZERO.fullmatch(text) is not None


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: missing, blank text, an empty list or object."""
    return is_missing(value) or (isinstance(value, (list, tuple, dict, bytes)) and not value)


def path_step(value: Any, step: int, separator: str | None) -> str | None:
    """The step of a path such as `Home > Shelves`, from 1, or from -1 for the last; None where the path is shorter.

    Of several paths of one cell the longest counts: of a list of paths, or of text such as `Home, Home > Shelves`, whose
    paths begin alike.

    >>> path_step("Home > Shelves", -1, None), path_step("Home/Shelves", 1, None), path_step("Home", 2, None)
    ('Shelves', 'Home', None)
    >>> path_step("Clothing, Clothing > T-shirts", 1, None), path_step(["Lingerie, Sleep >> Shorts"], -1, None)
    ('Clothing', 'Shorts')
    """
    paths = _paths(value, separator)
    steps = max(paths, key=len, default=[])
    place = step - 1 if step > 0 else step
    return steps[place] if -len(steps) <= place < len(steps) else None


def _paths(value: Any, separator: str | None) -> list[list[str]]:
    """The paths of a cell, each as its steps."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (list, tuple)) for item in value):
            return [path for item in value for path in _paths(item, separator)]
        texts = [readable(item) or "" for item in value]
        if len(texts) > 1 and not any(_sign(text, separator) for text in texts):
            return [[text for text in texts if text]]  # the steps themselves
        return [path for text in texts for path in _paths(text, separator)]
    text = str(value)
    sign = _sign(text, separator)
    if sign is None:
        return [_steps(text, None)]
    pieces = [_steps(piece, sign) for piece in _BETWEEN_PATHS.split(text)]
    alike = len(pieces) > 1 and all(pieces) and len({piece[0] for piece in pieces}) == 1
    return pieces if alike else [_steps(text, sign)]


def _sign(text: str, separator: str | None) -> str | None:
    return separator or next((sign for sign in _SEPARATORS if sign in text), None)


def _steps(text: str, sign: str | None) -> list[str]:
    return [part for piece in (text.split(sign) if sign else [text]) if (part := piece.strip())]
