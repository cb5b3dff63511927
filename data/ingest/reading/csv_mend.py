"""A CSV record whose quotes are not doubled, read where there is one way to."""

from __future__ import annotations

import functools
import re


class Mended(list[str]):
    """The cells of a record that was mended."""


def mended(text: str, delimiter: str) -> list[str] | None:
    """The cells of one record, or None.

    First a quote closes a cell only where a delimiter or the end follows. Where that is no record, a cell that is not
    closed as it should be is text up to the next delimiter, if its quotes are paired.

    >>> mended('1,"24" monitor",30', ",")
    ['1', '24" monitor', '30']
    >>> mended('"Blue" shirt,"L",5', ",")
    ['"Blue" shirt', 'L', '5']
    >>> mended('1,"12 inch TV,25', ",") is None
    True
    """
    closed, strict, bare = _patterns(delimiter)
    found = _cells(text, delimiter, closed, bare, quotes_in_bare=False)
    return found or _cells(text, delimiter, strict, bare, quotes_in_bare=True)


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
