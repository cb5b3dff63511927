"""A CSV record whose quotes are not doubled, read where there is one way to."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator


class Mended(list[str]):
    """The cells of a record that was mended."""


def readings(text: str, delimiter: str) -> Iterator[list[str]]:
    """The cells of one record in every way there is, the likelier first; which one it is shows by their number.

    First a quote closes a cell only where a delimiter or the end follows. Then a cell that is not closed as it should be
    is text up to the next delimiter, if its quotes are paired.

    >>> list(readings('1,"24" monitor",30', ","))
    [['1', '24" monitor', '30']]
    >>> list(readings('"Blue" shirt,"L",5', ","))
    [['Blue" shirt,"L', '5'], ['"Blue" shirt', 'L', '5']]
    >>> list(readings('1,"12 inch TV,25', ","))
    []
    """
    closed, strict, bare = _patterns(delimiter)
    first = _cells(text, delimiter, closed, bare, quotes_in_bare=False)
    second = _cells(text, delimiter, strict, bare, quotes_in_bare=True)
    if first:
        yield first
    if second and second != first:
        yield second


@functools.cache
def _patterns(delimiter: str) -> tuple[re.Pattern[str], ...]:
    mark = re.escape(delimiter)
    end = rf"(?=[ \t]*(?:{mark}|[\r\n]*\Z))"
    closed = re.compile(rf'[ ]*"((?:[^"]|"(?![ \t]*(?:{mark}|[\r\n]*\Z)))*+)"{end}[ ]*')
    strict = re.compile(rf'[ ]*"((?:[^"]|"")*+)"{end}[ ]*')
    return closed, strict, re.compile(rf"[^{mark}\r\n]*")


def _cells(
    text: str, delimiter: str, quoted: re.Pattern[str], bare: re.Pattern[str], *, quotes_in_bare: bool
) -> list[str] | None:
    cells: list[str] = []
    at = 0
    while True:
        found = quoted.match(text, at)
        if found:
            cells.append(found[1].replace('""', '"'))
        else:
            found = bare.match(text, at)
            assert found is not None  # it matches nothing too
            cell = found[0]
            if cell.lstrip(" ").startswith('"') and (not quotes_in_bare or cell.count('"') % 2):
                return None
            cells.append(cell)
        at = found.end()
        if not text.startswith(delimiter, at):
            return cells if not text[at:].strip("\r\n") else None
        at += 1
