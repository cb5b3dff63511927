"""The names of a table's columns: which of its first rows holds them, and what a column without a name is called."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..known_exports import detect
from .csv_records import is_number, is_place

MOST_TITLES = 10
_LEAST_NAMES = 3  # of a header that is not in the first line
_LONGEST_NAME = 60


def is_blank(cells: Sequence[Any]) -> bool:
    """Whether no cell of a row holds anything."""
    return not any(cell is not None and str(cell).strip() for cell in cells)


def is_header_again(names: Sequence[str | None], cells: Sequence[Any]) -> bool:
    """Whether a row holds the names of the columns once more, as in files that were joined; of one column it may be a value.

    >>> is_header_again(["title", "price"], ["title", "price "]), is_header_again(["title", "price"], ["title", "9"])
    (True, False)
    """
    named = [(name, cell) for name, cell in zip(names, cells) if name is not None]
    return len(named) > 1 and all(isinstance(cell, str) and " ".join(cell.split()) == name for name, cell in named)


def find_header(rows: Sequence[Sequence[Any]]) -> int | None:
    """The place of the row with the names: the first that is not blank, or the one below a title.

    A title is a row with a first cell and no other, above a row of several cells of which none is a number or a photo; a
    row of which one below has at least twice as many cells, all names; one above the names of a known export, as Amazon's
    templates begin; or one of comments, as eBay's and Meta's templates begin. None: all rows are blank.
    """
    filled = [place for place, cells in enumerate(rows) if not is_blank(cells)]
    if not filled:
        return None
    first = filled[: MOST_TITLES + 1]
    known = next((place for place in first if _names_an_export(rows[place])), None)
    if known is not None:
        return known
    if (below_comments := _below_comments([(place, _written(rows[place])) for place in first])) is not None:
        return below_comments
    for place in first:
        cells = _written(rows[place])
        if len(cells) > 1:
            below = [other for other in first if other > place and len(_written(rows[other])) >= 2 * len(cells)]
            if below and len(_written(rows[below[0]])) > _LEAST_NAMES and _are_names(rows[below[0]]):
                return below[0]
            return filled[0] if any(is_number(cell) or is_place(cell) for cell in cells) else place
        if not str(rows[place][0] or "").strip():
            break
    return filled[0]


def _below_comments(rows: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """The place of the names below several rows that begin with `#`, or one of which every cell does; None without these."""
    count = sum(1 for _ in itertools.takewhile(lambda row: row[1][0].startswith("#") and len(row[1][0]) > 1, rows))
    if count == len(rows) or count == 0 or (count == 1 and not all(cell.startswith("#") for cell in rows[0][1])):
        return None
    place, names = rows[count]
    are_names = len(set(names)) == len(names) > 1 and not any(is_number(name) or is_place(name) for name in names)
    return place if are_names else None  # of any length: eBay's first column names its whole site


def _written(cells: Sequence[Any]) -> list[str]:
    return [text for cell in cells if cell is not None and (text := str(cell).strip())]


def _are_names(cells: Sequence[Any]) -> bool:
    """Whether the cells of a row may be names of columns: all different, short, none a number or a photo."""
    names = _written(cells)
    return len(set(names)) == len(names) and not any(
        len(name) > _LONGEST_NAME or is_number(name) or is_place(name) for name in names
    )


def _names_an_export(cells: Sequence[Any]) -> bool:
    return len(cells) > _LEAST_NAMES and detect(_written(cells), least=_LEAST_NAMES) is not None


def column_names(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str | None]:
    """A name for each cell of a row, or None for a column that is left out; `rows` are some of those below the header.

    A nameless column is left out where it is the first and counts the rows, as pandas writes it, or where it is one of
    the last and empty; else it is `column_N`, from 1. A name that is there already gets `_2`, `_3`.
    """
    names: list[str | None] = [" ".join(str(name).split()) if name is not None else "" for name in header]
    filled = [cells for cells in rows if not is_blank(cells)]
    width = max((len(cells) for cells in filled), default=0)
    usual = sorted(len(cells) for cells in filled)[len(filled) // 2] if filled else 0
    if usual == len(names) + 1 and _counts([cells[0] for cells in filled if cells]):
        names.insert(0, "")  # R writes no name at all
    names += [""] * (max(usual, len(names)) - len(names))
    last = max((place for place, name in enumerate(names) if name), default=-1)
    taken = {name for name in names if name}
    given: set[str] = set()
    for place, name in enumerate(names):
        values = [cells[place] for cells in filled if place < len(cells)]
        if not name and ((place > last and is_blank(values)) or (place == 0 and len(names) > 1 and _counts(values))):
            names[place] = None
            continue
        base, names[place] = name or f"column_{place + 1}", name or f"column_{place + 1}"
        number = 1
        while names[place] in given or (number > 1 and names[place] in taken) or (not name and names[place] in taken):
            number += 1
            names[place] = f"{base}_{number}"
        given.add(names[place] or "")
    while names and names[-1] is None and len(names) > width:
        names.pop()
    return names


def _counts(values: Sequence[Any]) -> bool:
    """Whether values are the numbers of rows, one up from each to the next, from 0 or 1."""
    try:
        numbers = [int(value) for value in values]
    except (TypeError, ValueError):
        return False
    return bool(numbers) and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
