"""How a CSV file separates and quotes its cells, found in its rows: the delimiter in a sample, the quoting in all of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from ..row import RowError
from .csv_escapes import Escapes, escaped_records
from .csv_mend import Mended
from .csv_records import Lines, Shape, literal_records, strict_records
from .options import Quoting

Record = tuple[int, list[Any] | RowError]
DELIMITERS = ",;\t|"
QUOTED = re.compile(r'".*"', re.DOTALL)
_SPACED = re.compile(r'[ \t]+".*"', re.DOTALL)


class AmbiguousError(Exception):
    """A file that can be read in two ways; `flag` tells which."""

    def __init__(self, problem: str, flag: str) -> None:
        super().__init__(problem)
        self.flag = flag


@dataclass(frozen=True)
class Dialect:
    """How a file is read. `clean`: every quote of it is as it should be, as far as a strict reader can tell."""

    delimiter: str
    quoting: Quoting = "rfc"
    clean: bool = True

    def records(self, file: IO[str], shape: Shape, *, after: int = 0) -> Iterator[Record]:
        """The records of an opened file of which `after` lines have been read."""
        return self.records_of(Lines(file, after), shape)

    def records_of(self, lines: Lines, shape: Shape | None, *, mend: bool = True) -> Iterator[Record]:
        """(number of the first line, cells or why there are none) of each record. `mend`: see `strict_records`."""
        if self.quoting == "none":
            return literal_records(lines, self.delimiter)
        if self.quoting in ("backslash", "quote-only"):
            return escaped_records(lines, self.delimiter, letters=self.quoting == "backslash")
        if self.quoting == "single":
            return strict_records(lines, self.delimiter, shape, spaced=True, clean=self.clean, mend=False, quote="'")
        spaced = self.quoting == "spaced"
        return strict_records(lines, self.delimiter, shape, spaced=spaced, clean=self.clean, mend=mend)


@dataclass
class Survey:
    """What reading a whole file in one way gives: its records, and how many of them do not fit."""

    records: int = 0
    wrong: int = 0
    broken: int = 0
    spanning: int = 0  # records that could be several, see `strict_records`
    has_quotes: bool = False  # inside a cell
    mended: int = 0


def survey(records: Iterable[Record], width: int, in_quotes: re.Pattern[str] | None = None) -> Survey:
    """Count the records that are of another width or broken. A cell that is `in_quotes` was not read right."""
    found = Survey()
    for _, cells in records:
        found.records += 1
        if isinstance(cells, RowError):
            found.broken += 1
            if cells == "quote_spans_rows":
                found.spanning += 1
            else:
                found.wrong += 1
            continue
        if len(cells) != width:
            found.wrong += 1
        found.mended += type(cells) is Mended
        if in_quotes is not None:
            found.wrong += sum(in_quotes.fullmatch(cell) is not None for cell in cells)
        if not found.has_quotes:
            found.has_quotes = any('"' in cell for cell in cells if cell)
    return found


@dataclass(frozen=True)
class Marks:
    """How often a file has what decides between ways to quote."""

    quotes: int
    backslashes: int
    escaped_quotes: int  # a backslash before a quote
    pairs: int  # of backslashes
    spaced_quotes: int  # a quote after a delimiter and a space


def find_quoting(
    open_body: Callable[[], IO[str]], delimiter: str, shape: Shape, marks: Marks, after: int, most: int | None = None
) -> tuple[Dialect, int]:
    """(the way to quote that fits most records, the number of records). The strict way wins a tie.

    open_body opens the file where its rows begin, behind `after` lines; `most` records are looked at. Raises
    AmbiguousError where a backslash may or may not be an escape.
    """
    others: list[Quoting] = ["rfc"]
    others += ["spaced"] if marks.spaced_quotes else []
    in_quotes: dict[Quoting, re.Pattern[str]] = {"none": QUOTED}
    if marks.spaced_quotes:
        in_quotes["rfc"] = _SPACED
    others += ["backslash"] if marks.backslashes else []
    others += ["none"] if marks.quotes else []
    found: dict[Quoting, Survey] = {}
    seen = Escapes()
    for quoting in others:
        if quoting == "none" and not min(item.wrong for item in found.values()):
            continue
        with open_body() as file:
            dialect = Dialect(delimiter, quoting)
            lines = Lines(file, after)
            records = dialect.records_of(lines, shape, mend=not marks.backslashes)
            if quoting == "backslash":
                records = escaped_records(lines, delimiter, seen=seen)
            found[quoting] = survey(itertools.islice(records, most), shape.width, in_quotes.get(quoting))
        if quoting == "rfc" and not found[quoting].wrong and not (marks.spaced_quotes or marks.backslashes):
            break
    rfc = found["rfc"]
    best = min(found, key=lambda quoting: found[quoting].wrong)
    if "backslash" in found and best == "rfc" and found["backslash"].wrong == rfc.wrong and _may_be_escapes(rfc, seen):
        if seen.in_quotes or not seen.before_quote:
            raise AmbiguousError("a backslash is text or an escape", "quoting backslash or --quoting rfc")
        best = "backslash"  # a quote in a cell without quotes, and no other reason for the backslash
    if best == "backslash" and not seen.are_mysql(delimiter):
        best = "quote-only"
    counted = found["backslash" if best == "quote-only" else best]
    return Dialect(delimiter, best, clean=counted.broken == counted.spanning and not counted.mended), counted.records


def _may_be_escapes(rfc: Survey, seen: Escapes) -> bool:
    """Whether a file that both readings fit has backslashes as an escaping writer puts them, and as no other does."""
    if seen.before_quote:
        return True
    return not rfc.has_quotes and "\\" in seen.characters and seen.characters <= {"\\", "N"}
