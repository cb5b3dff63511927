"""A class that a table writes as one column for each, with 1 where a row is of it: by get_dummies, Roboflow, Open Images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .column_names import folded
from .paths_in_row import resolve
from .values import truth

_SEPARATORS = "_.:/- "
_OF_CLASSES = {"category", "categories", "class", "label", "type", "kind", "is"}
_LEAST = 2  # classes, and rows of different ones


def class_of(columns: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """The name of the column that has a 1 in this row, of several all; None where there is none.

    >>> class_of(["bag", "hat"], {"bag": "0", "hat": "1"}), class_of(["label_bag", "label_hat"], {"label_bag": True})
    ('hat', 'bag')
    """
    names = class_names(tuple(columns))
    return ", ".join(name for name, column in zip(names, columns) if truth(resolve(values, column)) is True) or None


@functools.lru_cache(maxsize=64)
def class_names(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns without what all of them begin with, where that says only that they are classes.

    >>> class_names(("category_bag", "category_hat")), class_names(("t_shirt", "t_bar"))
    (('bag', 'hat'), ('t_shirt', 't_bar'))
    """
    alike_up_to = (place for place, signs in enumerate(zip(*columns)) if len(set(signs)) > 1)
    common = columns[0][: next(alike_up_to, min(map(len, columns)))]
    length = max(common.rfind(sign) for sign in _SEPARATORS) + 1
    alike = folded(common[:length]) in _OF_CLASSES and all(len(column) > length for column in columns)
    return tuple(column[length:] for column in columns) if alike else columns


def one_hot_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns side by side of which each row has exactly one 1, and zeros else; [] where there are none.

    Flags that are independent of each other (in stock, on sale) are none: some rows have several or no 1.
    """
    marks = {column: [truth(resolve(row, column)) for row in rows] for column in columns}
    for is_class, run in itertools.groupby(columns, key=lambda column: None not in marks[column]):
        found = list(run)
        chosen = [sum(map(bool, cells)) for cells in zip(*(marks[column] for column in found))]
        several = sum(any(marks[column]) for column in found) >= _LEAST
        if is_class and len(found) >= _LEAST and several and set(chosen) == {1}:
            return found
    return []
