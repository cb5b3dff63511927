"""A field's value in a row of the source: of the first of its columns that has one, or a step of a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlx_phi3v.task import is_missing

from .field_spec import MappedField
from .paths_in_row import resolve
from .values import readable, unpacked

_SEPARATORS = (" > ", ">", " / ", "/", " | ", "|", "›", "»", "→", "\\")


def field_source(field: MappedField, values: Mapping[str, Any], is_empty: Callable[[Any], bool] | None = None) -> Any:
    """What a field is read from, as the source has it; where all of its columns are empty, what the first of them holds.

    `is_empty` tells a cell that says nothing; by default `is_blank`.

    >>> price = MappedField("price", "sale", "number", further=("regular",))
    >>> field_source(price, {"sale": "", "regular": "20"})
    '20'
    """
    if not field.further and field.step is None and field.column in values:
        return values[field.column]
    cells = [resolve(values, column) for column in field.columns]
    value = next((cell for cell in cells if not (is_empty or is_blank)(cell)), None)
    if value is None:
        return cells[0]
    return value if field.step is None else path_step(unpacked(value), field.step, field.separator)


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: missing, blank text, an empty list or object."""
    return is_missing(value) or (isinstance(value, (list, tuple, dict, bytes)) and not value)


def path_step(value: Any, step: int, separator: str | None) -> str | None:
    """The step of a path such as `Home > Shelves`, from 1, or from -1 for the last; None where the path is shorter.

    >>> path_step("Home > Shelves", -1, None), path_step("Home/Shelves", 1, None), path_step("Home", 2, None)
    ('Shelves', 'Home', None)
    """
    if isinstance(value, (list, tuple)):
        steps = [readable(item) or "" for item in value]
    else:
        text = str(value)
        sign = separator or next((sign for sign in _SEPARATORS if sign in text), None)
        steps = [part.strip() for part in text.split(sign)] if sign else [text.strip()]
    steps = [part for part in steps if part]
    place = step - 1 if step > 0 else step
    return steps[place] if -len(steps) <= place < len(steps) else None
