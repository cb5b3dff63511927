"""The records of a CSV file, one at a time: read strictly, and what is done where one breaks the rules.

Strict is RFC 4180: a cell that begins with a quote ends at the next quote which is not doubled, and a delimiter or the end
of the line follows. Where a record is not of this form, it is rejected or mended (`csv_mend`), and the reading goes on
with the next line: a quote never takes the rows after it along.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..row import RowError
from .byte_streams import MAX_LINE, read_line
from .csv_mend import Mended, readings

_MOST_HELD = 256_000_000  # characters of a record
_MOST_MENDED = 200  # lines of a record that is mended
_FEW_LINES = 3  # up to here a cell that could be several rows could as well be a cell
_LONGEST_TYPED = 400
_SHOWN = 120  # characters of a line that is rejected
_NUMBER = re.compile(r"(?:[^\w\s\"]{0,3}|[A-Z]{2,3})\s?[-+]?[\d.,'\u00a0 ]*\d\s?(?:[^\w\s\"]{1,2}|[A-Z]{2,3})?")
_PLACE = re.compile(r"(?:https?:)?//\S+|[^\s\"][^\"]*\.(?:jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic)", re.IGNORECASE)


@dataclass(frozen=True)
class Shape:
    """What the rows of a file look like: the number of their cells, and the columns that hold numbers or photos alone."""

    width: int
    delimiter: str
    typed: tuple[tuple[int, re.Pattern[str]], ...] = ()

    def fits(self, line: str) -> bool:
        """Whether a line, its quotes taken as text, could be a row."""
        text = line.rstrip("\r\n")
        if text.count(self.delimiter) != self.width - 1:
            return False
        return self.fits_cells([cell.strip(' "') for cell in text.split(self.delimiter)])

    def fits_cells(self, cells: list[str]) -> bool:
        """Whether cells are as many as a row's, and typed like them."""
        return len(cells) == self.width and all(_is(pattern, cells[place]) for place, pattern in self.typed)


def shape_of(rows: list[list[str]], width: int, delimiter: str) -> Shape:
    """The shape of a file by some of its rows."""
    typed = []
    whole = [[cell or "" for cell in cells] for cells in rows if len(cells) == width]
    for place in range(width):
        values = [value for cells in whole if (value := cells[place].strip())]
        for pattern in (_NUMBER, _PLACE):
            if len(values) >= 3 and sum(_is(pattern, value) for value in values) >= 0.9 * len(values):
                typed.append((place, pattern))
                break
    return Shape(width, delimiter, tuple(typed))


def is_number(value: str) -> bool:
    """Whether a cell is a number, with its currency or not."""
    return bool(value) and _is(_NUMBER, value)


def is_place(value: str) -> bool:
    """Whether a cell is a URL or the name of a photo file."""
    return bool(value) and _is(_PLACE, value)


def _is(pattern: re.Pattern[str], value: str) -> bool:
    return not value or (len(value) <= _LONGEST_TYPED and pattern.fullmatch(value) is not None)


class LongLineError(csv.Error):
    """A line is longer than `MAX_LINE`."""


class _Cut(str):
    """The beginning of such a line, which is held in its place."""


class Lines(Iterator[str]):
    """The lines of a file for `csv.reader`. Holds those of the record that is read, so that they can be read again.

    Raises LongLineError.
    """

    def __init__(self, file: Any, number: int = 0) -> None:
        self._file = file
        self._back: list[str] = []
        self.held: list[str] = []
        self.number = number  # of the last line that was given
        self.has_ended = False  # there is no line after those that were given, but for those given back
        self.shape: Shape | None = None
        self._size = 0
        self._alike = False  # whether all lines held, but for the last, could be rows

    def __next__(self) -> str:
        held = self.held
        if held and self._is_too_long():
            raise StopIteration  # inside a cell, the reader takes this for an error
        line, is_whole = (self._back.pop(), True) if self._back else read_line(self._file)
        if not line:
            self.has_ended = True
            raise StopIteration
        self.number += 1
        held.append(line if is_whole else _Cut(line[:_SHOWN]))
        if isinstance(held[-1], _Cut):  # also where it was given back
            raise LongLineError(f"a line of more than {MAX_LINE:,} characters")
        return line

    def _is_too_long(self) -> bool:
        if len(self.held) == 1:
            self._size, self._alike = 0, self.shape is not None and bool(self.shape.typed)
        last = self.held[-1]
        self._size += len(last)
        self._alike = self._alike and self.shape is not None and self.shape.fits(last)
        return self._size > _MOST_HELD or (self._alike and len(self.held) > _FEW_LINES)

    def spans_rows(self) -> bool:
        """Whether the lines held are several and each could be a row, with typed columns of its own."""
        return len(self.held) > 1 and self._alike and self.shape is not None and self.shape.fits(self.held[-1])

    def give_back(self, count: int) -> None:
        """Read the lines held again, but for the first `count`."""
        again = self.held[count:]
        self.number -= len(again)
        self._back += reversed(again)
        self.held.clear()


def strict_records(
    lines: Lines,
    delimiter: str,
    shape: Shape | None = None,
    *,
    spaced: bool = False,
    clean: bool = True,
    mend: bool = True,
    quote: str = '"',
) -> Iterator[tuple[int, list[str] | RowError]]:
    """(number of the first line, cells or why there are none) of each record. A blank line is none.

    spaced: spaces after a delimiter are not part of a cell. clean: every quote of the file is as it should be, as far as a
    reader can tell; then a cell that could be several rows is refused whole, else the rows are read. mend: see `csv_mend`.
    quote: what is around cells.
    """
    csv.field_size_limit(MAX_LINE)
    lines.shape = shape
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True, skipinitialspace=spaced)
    doubtful = 0  # the last line that a broken record reached
    held = lines.held
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            doubtful = max(doubtful, lines.number)
            yield _recovered(lines, delimiter, shape, str(error), mend and not isinstance(error, LongLineError))
            continue
        first = lines.number - len(held) + 1
        if len(held) > 1 and shape is not None and _takes_rows(lines, cells, shape):
            if clean and len(held) <= _FEW_LINES and len(cells) == shape.width:
                yield first, RowError("quote_spans_rows", f"lines {first} to {lines.number}")
            else:
                doubtful = max(doubtful, lines.number)
                yield _recovered(lines, delimiter, shape, "a quote that is not closed", mend)
                continue
        elif first <= doubtful and shape is not None and not shape.fits_cells(cells):
            if cells:
                yield first, RowError("malformed_row", f"line {first}: after a quote that is not closed")
        elif cells:
            yield first, cells
        held.clear()


def _takes_rows(lines: Lines, cells: list[str], shape: Shape) -> bool:
    """Whether a record of several lines has probably taken rows along."""
    if len(cells) != shape.width:
        return any(map(shape.fits, lines.held[1:]))
    return lines.spans_rows()


def _recovered(lines: Lines, delimiter: str, shape: Shape | None, problem: str, mend: bool) -> tuple[int, list[str] | RowError]:
    """The first record among the lines held, mended or rejected; what follows it is read again."""
    held = lines.held
    first = lines.number - len(held) + 1
    if mend and shape is not None:
        for count in (1, len(held)):
            text = "".join(held[:count])
            ways = readings(text, delimiter) if count <= _MOST_MENDED and "\\" not in text else iter(())
            cells = next(filter(shape.fits_cells, ways), None)
            if cells is not None and not (count > 1 and lines.spans_rows()):
                lines.give_back(count)
                return first, Mended(cells)
    value = f"line {first}: {problem}: {held[0][:_SHOWN].strip()}"
    lines.give_back(1)
    return first, RowError("malformed_row", value)


def literal_records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str] | RowError]]:
    """The same where quotes are text like any other: each line is a record."""
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except LongLineError as error:
            yield _recovered(lines, delimiter, None, str(error), mend=False)
            continue
        lines.held.clear()
        if text := line.rstrip("\r\n"):
            yield lines.number, text.split(delimiter)
