"""Values inside a row's nested values by a dotted path: `price.amount`, `images.0.src`, `images.*.src`."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

# Under what key an API puts the row itself: the reader takes it out.
WRAPPERS = ("node", "item", "product", "_source", "row", "attributes", "fields", "Item")
_MOST_LITERAL = 100_000  # characters of a cell that is tried as Python text
_MOST_DEPTH = 8  # of the paths that are listed


def column_of(path: str, columns: Collection[str]) -> str | None:
    """The column that a path starts in, or None. A column's own name may hold dots: the longest that fits is taken.

    >>> column_of("price.amount", ["price", "title"]), column_of("price.amount", ["price.amount", "price"])
    ('price', 'price.amount')
    """
    parts = path.split(".")
    heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((head for head in heads if head in columns), None)


def resolve(row: Mapping[str, Any], path: str) -> Any:
    """The value at `path`, or None where there is nothing.

    A part of the path is a key of an object or, counted from 0, a place in a list (-1: the last). `*` takes every item of
    a list, or every value of an object, and so does a key that is asked of a list; the result is then a list of what
    they hold. An object or list that stands in a cell as text, JSON or Python's, is read first.

    >>> resolve({"images": [{"src": "a.jpg"}, {"src": "b.jpg"}]}, "images.0.src")
    'a.jpg'
    >>> resolve({"images": '[{"src": "a.jpg"}, {"src": "b.jpg"}]'}, "images.*.src")
    ['a.jpg', 'b.jpg']
    """
    if path in row:
        return row[path]
    column = column_of(path, row.keys())
    return None if column is None else _below(row[column], path[len(column) + 1 :].split("."))


def leaf_paths(row: Mapping[str, Any], most: int = 200) -> list[str]:
    """The paths of all values of a row that are neither objects nor lists, at most `most` of them.

    Of a list of objects only the first is followed.

    >>> leaf_paths({"title": "Hat", "price": {"amount": 5}, "images": [{"src": "a.jpg"}, {"src": "b.jpg"}]})
    ['title', 'price.amount', 'images.0.src']
    """
    return [path for path, _ in zip(_leaves(row, "", 0), range(most))]


def _leaves(value: Any, path: str, depth: int) -> Iterator[str]:
    if depth <= _MOST_DEPTH and isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif depth <= _MOST_DEPTH and isinstance(value, (list, tuple)) and value and isinstance(value[0], (Mapping, list, tuple)):
        yield from _leaves(value[0], f"{path}.0", depth + 1)
    else:
        yield path


def _below(value: Any, parts: list[str]) -> Any:
    for at, part in enumerate(parts):
        value = nested(value)
        if isinstance(value, Mapping):
            if part != "*" or "*" in value:
                value = value.get(part)
                continue
            value = list(value.values())
        if not isinstance(value, (list, tuple)):
            return None
        index = _index(part)
        if index is None:
            rest = parts[at + 1 :] if part == "*" else parts[at:]
            found = [_below(item, rest) for item in value]
            return [item for item in found if item is not None] or None
        value = value[index] if -len(value) <= index < len(value) else None
    return value


def _index(part: str) -> int | None:
    digits = part.removeprefix("-")
    return int(part) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None


def nested(value: Any) -> Any:
    """An object or list for the text of one (JSON, or as Python prints it); any other value as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("{}", "[]"):
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MOST_LITERAL:
        return value
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return value
    return found if isinstance(found, (dict, list)) else value
