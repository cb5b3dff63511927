r"""CSV as MySQL writes it: a backslash escapes a quote, a line's end or itself.

As `SELECT ... INTO OUTFILE` writes and `LOAD DATA` reads: `\N` alone is NULL, `\0` a zero byte. A doubled quote inside a
quoted cell is a quote here too. Where a file has other escapes than MySQL writes, only `\"` and `\\` are escapes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..row import RowError
from .csv_records import Lines, LongLineError

_ESCAPE = re.compile(r"\\(\r\n|.)", re.DOTALL)
_LETTERS = {"0": "\0", "n": "\n", "t": "\t", "r": "\r", "b": "\b", "Z": "\x1a"}
_MYSQL = frozenset("\\\"'0NntrbZ\n\r")
_INSIDE = re.compile(r'(?:[^"\\]|\\(?:\r\n|.)|"")*+', re.DOTALL)
_MOST_LINES = 100_000  # of a cell


@dataclass
class Escapes:
    """What the backslashes of a file escape; how often a quote, in a cell with quotes around it and in one without."""

    characters: set[str] = field(default_factory=set)
    in_quotes: int = 0
    before_quote: int = 0

    def add(self, cell: str) -> None:
        """Count a cell as it is written, a quote before one that was quoted."""
        self.characters.update(match[1][:1] for match in _ESCAPE.finditer(cell))
        if '\\"' in cell:
            self.before_quote += 1
            self.in_quotes += cell.startswith('"')

    def are_mysql(self, delimiter: str) -> bool:
        """Whether all that was escaped is what MySQL escapes."""
        return self.characters <= _MYSQL | {delimiter}


def escaped_records(
    lines: Lines, delimiter: str, *, letters: bool = True, seen: Escapes | None = None
) -> Iterator[tuple[int, list[str | None] | RowError]]:
    r"""(number of the first line, cells or why there are none) of each record; NULL is None.

    letters: whether `\n`, `\t` and `\0` stand for the characters they do in MySQL. `seen` gathers what backslashes escape.
    """
    while True:
        try:
            line = next(lines, "")
        except LongLineError as error:
            value = f"line {lines.number}: {error}: {lines.held[0]}"
            lines.held.clear()
            yield lines.number, RowError("malformed_row", value)
            continue
        if not line:
            return
        first = lines.number
        if not line.strip("\r\n"):
            lines.held.clear()
            continue
        raw = _record(line, lines, delimiter)
        if raw is None:
            value = f"line {first}: a quote that is not closed, or text after it: {line[:120].strip()}"
            lines.give_back(1)
            yield first, RowError("malformed_row", value)
            continue
        lines.held.clear()
        if seen is not None:
            for cell in raw:
                if "\\" in cell:
                    seen.add(cell)
        yield first, [_plain(cell, letters) for cell in raw]


@functools.cache
def _bare(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf"(?:[^{re.escape(delimiter)}\\\r\n]|\\(?:\r\n|.))*+", re.DOTALL)


def _record(line: str, lines: Lines, delimiter: str) -> list[str] | None:
    """The cells of a record as they are written, a quote before those that were quoted."""
    bare = _bare(delimiter)
    cells: list[str] = []
    at = 0
    while True:
        pattern, quoted = (_INSIDE, True) if line.startswith('"', at) else (bare, False)
        at += quoted
        pieces = ['"'] if quoted else []
        for _ in range(_MOST_LINES):
            found = pattern.match(line, at)
            assert found is not None  # it matches nothing too
            pieces.append(found[0])
            at = found.end()
            if at < len(line) or not (quoted or found[0].endswith(("\\\n", "\\\r", "\\\r\n"))):
                break
            try:
                line, at = next(lines, ""), 0
            except LongLineError:
                return None
            if not line:
                return None
        cells.append("".join(pieces))
        if quoted:
            if not line.startswith('"', at):
                return None
            at += 1
        if not line.startswith(delimiter, at):
            return cells if not line[at:].strip("\r\n") else None
        at += 1


def _plain(cell: str, letters: bool) -> str | None:
    quoted = cell.startswith('"')
    if quoted:
        cell = cell[1:].replace('""', '"') if "\\" not in cell else _undoubled(cell[1:])
    elif cell == "\\N":
        return None
    if "\\" not in cell:
        return cell
    return _ESCAPE.sub(_unescaped if letters else _quote_only, cell)


def _undoubled(cell: str) -> str:
    r"""Doubled quotes made one, but not the quote of `\"` with the next."""
    return re.sub(r'(\\(?:\r\n|.))|""', lambda match: match[1] or '"', cell, flags=re.DOTALL)


def _unescaped(match: re.Match[str]) -> str:
    return _LETTERS.get(match[1], match[1])


def _quote_only(match: re.Match[str]) -> str:
    return match[1] if match[1] in '\\"' else match[0]
