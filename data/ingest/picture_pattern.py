"""Picture names made of a row's values: `images/{id}.jpg`, `images/{id:.3}/{id}.jpg`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import is_missing

from .column_names import named_column
from .paths_in_row import resolve

# A column, and how much of it: `.3` its first three characters, `010` ten digits with leading zeros, `010.3` three of these.
_PLACE = re.compile(r"\{([^{}:]+)(?::(?=[.0])(0\d{1,3})?(\.\d{1,3})?)?\}")


def is_pattern(name: str) -> bool:
    """Whether an image column's name is a pattern.

    >>> is_pattern("images/{id:.3}/{id}.jpg"), is_pattern("image")
    (True, False)
    """
    return _PLACE.search(name) is not None


def pattern_columns(pattern: str) -> list[str]:
    """The columns, or paths into them, that a pattern names."""
    return [place[1].strip() for place in _PLACE.finditer(pattern)]


def with_columns(pattern: str, columns: Sequence[str], where: str) -> str:
    """The pattern with the source's own names. Raises UserError for a column that it does not have, and for other braces."""
    if re.search("[{}]", _PLACE.sub("", pattern)):
        raise UserError(f"the image pattern {pattern!r} has a brace that names no column; write it as images/{{id}}.jpg")

    def named(place: re.Match[str]) -> str:
        return f"{{{named_column(place[1].strip(), columns, where)}{_form(place)}}}"

    return _PLACE.sub(named, pattern)


def fill_pattern(pattern: str, row: Mapping[str, Any]) -> str | None:
    """The picture's name for a row; None where a value that it needs is missing.

    >>> fill_pattern("images/{id:.3}/{id:010}.jpg", {"id": 108775015})
    'images/108/0108775015.jpg'
    >>> fill_pattern("images/{id:010.3}/{id:010}.jpg", {"id": 108775015})
    'images/010/0108775015.jpg'
    """
    values = {name: resolve(row, name) for name in pattern_columns(pattern)}
    if any(is_missing(value) for value in values.values()):
        return None
    return _PLACE.sub(lambda place: _written(values[place[1].strip()], place[2], place[3]), pattern)


def _form(place: re.Match[str]) -> str:
    form = (place[2] or "") + (place[3] or "")
    return f":{form}" if form else ""


def _written(value: Any, zeros: str | None, first: str | None) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes whole numbers beside a blank as 1501.0
    text = str(value).strip()
    text = text.zfill(int(zeros)) if zeros else text
    return text[: int(first[1:])] if first else text
