"""A CSV file, as a shop, a spreadsheet, a database or a script writes it."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from ..row import Row, RowError, whole
from .csv_dialect import AmbiguousError, Dialect, find_quoting
from .csv_file import CsvFile
from .csv_records import Shape, shape_of
from .csv_sample import Sample, find_delimiter, take_sample
from .header import column_names, find_header, is_blank, is_header_again
from .options import Reading

_QUICK_RECORDS = 5000
_FORMULA_OF_TEXT = re.compile(r'\A="((?:[^"]|"")*)"\Z')  # ="00123", so that a spreadsheet keeps the zeros


class CsvTable:
    """A CSV file with a header. All values are text, so that codes keep their zeros and prices their marks.

    Encoding, delimiter, header and quotes are found where they are not given; `reading.quick`: in the first rows alone, and
    then `count` is an estimate. `tabs`: its name says that tabs are between the cells. `notes` say what was found that a
    user may want to know. Raises UserError where it cannot be read, or can be in two ways.
    """

    kind = "csv"

    def __init__(self, path: Path, reading: Reading | None = None, *, tabs: bool = False) -> None:
        reading = reading or Reading()
        self.path = path
        self.file = CsvFile(path, reading)
        self.notes = self.file.notes
        text, cut = self.file.sample(reading.header_line or 1)
        said, self.skipped, text = _first_lines(text, reading.header_line)
        if not text.strip():
            raise UserError(f"{path} is empty; a CSV file needs a header line with the names of its columns")
        try:
            if mark := reading.delimiter or said:
                found = take_sample(text, mark, cut=cut, quoting=reading.quoting)
            else:
                found = find_delimiter(text, first="\t" if tabs else None, cut=cut, quoting=reading.quoting)
            self.shape = self._read_header(found, is_first=reading.header_line is not None)
            self.dialect, self.count = self._find_dialect(found, reading)
        except AmbiguousError as error:
            raise UserError(f"{path} can be read in two ways: {error}; give --{error.flag}") from None
        except UnicodeError:
            raise self.file.wrong_encoding("in its rows") from None

    def _find_dialect(self, sample: Sample, reading: Reading) -> tuple[Dialect, int]:
        """(how the file is quoted, the number of its rows)."""
        delimiter = sample.delimiter
        marks, lines = self.file.marks(delimiter)
        if reading.quoting is not None or sample.quoting == "single":
            return Dialect(delimiter, reading.quoting or sample.quoting), max(0, lines - self.skipped)
        if not (marks.quotes or marks.backslashes):
            return Dialect(delimiter), max(0, lines - self.skipped)
        most = _QUICK_RECORDS if reading.quick else None
        with whole(self.path):
            dialect, count = find_quoting(
                lambda: self.file.open(self.skipped), delimiter, self.shape, marks, self.skipped, most
            )
        return dialect, max(0, lines - self.skipped) if reading.quick else count

    def _read_header(self, sample: Sample, *, is_first: bool) -> Shape:
        """Find the names of the columns -> what a row looks like; `skipped` becomes the number of the lines before the rows."""
        records = sample.records
        place = find_header([cells for _, _, cells in records]) if records else None
        if place is None:
            raise UserError(
                f"{self.path} has no header that can be read; name every column in its first line, or --header-line"
            )
        place = 0 if is_first else place
        if sample.quoting == "single":
            self.notes.append(f"the quotes around cells of {self.path.name} are single ones; --quoting rfc keeps them")
        first, last, header = records[place]
        rows = [cells for _, _, cells in records[place + 1 :]]
        if place and not is_blank(records[place - 1][2]):
            line, own = self.skipped + records[place - 1][0], self.skipped + first
            self.notes.append(
                f"line {line} of {self.path.name} is a title, the columns are named in line {own}; --header-line says otherwise"
            )
        self.names = column_names(header, rows)
        self.skipped += last
        self.columns = {name: pa.string() for name in self.names if name is not None}
        if not self.columns:
            raise UserError(f"{self.path} names no column in line {self.skipped}; give --header-line")
        self._all_named = None not in self.names
        self._has_formulas = any(cell and cell.startswith('="') for cells in rows for cell in cells)
        return shape_of(rows, len(self.names), sample.delimiter)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each data row with the number of its first line in the file. Empty rows at the end are none."""
        empty: list[int] = []
        with whole(self.path), self.file.open(self.skipped) as file:
            records = self.dialect.records(file, self.shape, after=self.skipped)
            line = self.skipped
            while True:
                try:
                    line, cells = next(records)
                except StopIteration:
                    return
                except UnicodeError:
                    raise self.file.wrong_encoding(f"after line {line}") from None
                row = cells if isinstance(cells, RowError) else self._row(cells)
                if row is None:
                    empty.append(line)
                    continue
                if empty:
                    yield from zip(empty, itertools.repeat(RowError("empty_row")))
                    empty.clear()
                yield line, row

    def _row(self, cells: list[Any]) -> Row | None:
        """The values of a record by their columns; None where all are empty."""
        names = self.names
        if self._has_formulas:
            cells = [cell and _FORMULA_OF_TEXT.sub(lambda match: match[1].replace('""', '"'), cell) for cell in cells]
        if len(cells) == len(names) and self._all_named:
            row = dict(zip(names, cells))
        else:
            if len(cells) > len(names) and not is_blank(cells[len(names) :]):
                return RowError("wrong_number_of_columns", f"{len(cells)} cells for {len(names)} columns")
            if 2 * len(cells) < len(names) and not is_blank(cells):
                return RowError("wrong_number_of_columns", f"{len(cells)} cells for {len(names)} columns")
            row = {name: cell for name, cell in itertools.zip_longest(names, cells[: len(names)], fillvalue="")}
            beyond = row.pop(None, "")
            if beyond and not row:
                return RowError("wrong_number_of_columns")
        if not any(row.values()):
            return None
        if cells[-1] == names[-1] and is_header_again(names, cells):  # the first is quick, and most rows fail it
            return RowError("header_again")
        if self.file.is_mixed and any(cell and not _is_unicode(cell) for cell in cells):
            return RowError("text_not_utf8")
        return row  # type: ignore[return-value]  # no key is None any more


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _first_lines(sample: str, header_line: int | None) -> tuple[str | None, int, str]:
    """(the delimiter of Excel's line `sep=;`, the number of lines before the table, the sample from there)."""
    lines = list(io.StringIO(sample, newline=""))
    if header_line is not None:
        return None, header_line - 1, "".join(lines[header_line - 1 :])
    skipped = 0
    while skipped < len(lines) and not lines[skipped].strip():
        skipped += 1
    said = None
    if skipped < len(lines):
        line = lines[skipped].rstrip("\r\n").strip('"')
        if line.lower().startswith("sep=") and len(line) == 5:
            said = line[4]
            skipped += 1
    return said, skipped, "".join(lines[skipped:])
