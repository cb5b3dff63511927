"""JSON that is written by columns, as pandas and spreadsheets' APIs write it, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.errors import UserError

_MOST_BYTES = 128_000_000  # of a file by columns: all of it is held in memory

_TABLES = ("data", "values", "rows")  # where a list of lists is beside other keys


def read_columns(file: IO[bytes], path: Path) -> Any:
    """The value of an opened file. Raises UserError where it is too large to be held, ValueError where it is no JSON."""
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UserError(
            f"{path} is JSON by columns, of more than {_MOST_BYTES // 1_000_000} MB; write it by rows, with pandas by "
            "df.to_json(path, orient='records', lines=True)"
        )
    return json.loads(data)


def by_columns(value: Any) -> Iterator[dict[str, Any]]:
    """The rows of a value that holds columns; none of any other.

    Read are lists or objects of one length under each column's name, a list of lists below `columns` or below their names,
    and a list of lists whose first has the names.

    >>> list(by_columns({"title": {"0": "Pot", "1": "Pan"}, "price": {"0": 5, "1": 7}}))
    [{'title': 'Pot', 'price': 5}, {'title': 'Pan', 'price': 7}]
    >>> list(by_columns({"columns": ["title", "price"], "index": [0], "data": [["Pot", 5]]}))
    [{'title': 'Pot', 'price': 5}]
    """
    if isinstance(value, list):
        yield from _below_names(value, None)
    elif isinstance(value, dict):
        table = next((value[name] for name in _TABLES if _is_table(value.get(name))), None)
        if table is not None:
            yield from _below_names(table, value.get("columns"))
        else:
            yield from _of_columns(value)


def _of_columns(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if len(value) < 2:
        return
    if _is_column_list(value):
        for cells in zip(*value.values()):
            yield dict(zip(value, cells))
        return
    first = next(iter(value.values()))
    if not isinstance(first, dict) or not first or not all(name.isdecimal() for name in first):
        return  # pandas' rows have numbers; other names are those of a row's values
    if all(isinstance(item, dict) and item.keys() == first.keys() for item in value.values()):
        yield from ({name: item[row] for name, item in value.items()} for row in first)


def _is_column_list(value: Mapping[str, Any]) -> bool:
    """Whether every value is a list, all of one length, of which none holds objects."""
    columns = list(value.values())
    return (
        all(isinstance(item, list) and item and len(item) == len(columns[0]) for item in columns)
        and not any(isinstance(cell, dict) for item in columns for cell in item)
        and any(not isinstance(cell, list) for item in columns for cell in item)
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, list) for item in value)


def _below_names(rows: Sequence[Any], names: Any) -> Iterator[dict[str, Any]]:
    if not _is_table(rows):
        return
    if not (isinstance(names, list) and len(names) == len(rows[0])):
        names, rows = rows[0], rows[1:]
    if names and all(isinstance(name, str) and name for name in names):
        for cells in rows:
            yield {name: cells[place] if place < len(cells) else None for place, name in enumerate(names)}
