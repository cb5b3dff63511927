"""The rows of a table of predictions that another tool wrote, each with its line number.

Encoding, delimiter and header of a CSV file are found as `data.ingest` finds them. Its records are read strictly by RFC 4180:
an answer may hold anything, so nothing in it is guessed or mended, and a row that cannot be read refuses the file. Another
way to quote counts only where the file is not RFC 4180 and that way reads every row, or where the user says so.
"""

from __future__ import annotations

import csv
import itertools
import re
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_phi3v.documents import MOST_BYTES, parse_json, plain
from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note

from .lines import read_lines

if TYPE_CHECKING:
    from data.ingest.reading.csv_table import CsvTable
    from data.ingest.reading.options import Reading
    from data.ingest.tables import Table

_BOM = b"\xef\xbb\xbf"
_PLACE = re.compile(r"^lines? \d+( to \d+)?:? ?")
_FIRST = 20  # records in which the header is looked for
_SURE = ("backslash", "quote-only", "spaced")  # ways to quote that nothing but a file written so fits
_PROBLEMS = {"wrong_number_of_columns": "has", "text_not_utf8": "is not in the file's encoding", "malformed_row": "is no row"}
Rows = Iterator[tuple[int, dict[str, Any]]]


def read_rows(path: Path, reading: Reading | None = None, column: str | None = None) -> Rows:
    """(line number, columns) of a CSV, TSV or JSONL file, or of another table that `data.ingest` reads.

    reading: what the user says of the file; the rest is found. column: one that the table must have: the first of a CSV
    file's records with that cell is its header. Raises UserError where the file is missing, of another kind,
    or its header or quotes cannot be read; and, on the way, for a row that cannot be parsed.
    """
    from data.ingest.reading.csv_table import CsvTable  # late: with the readers of every kind of table
    from data.ingest.reading.file_kind import file_kind
    from data.ingest.reading.options import Reading
    from data.ingest.tables import open_table, suffix_of

    if not path.exists():
        raise UserError(f"--input {path} does not exist; check the path")
    if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe or a device might never end
        raise UserError(f"--input {path} is a {'folder' if path.is_dir() else 'device'}; give a file")
    reading = reading or Reading()
    if path.suffix.lower() == ".jsonl":
        given = [item.name for item in fields(reading) if getattr(reading, item.name) != item.default]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')} is of CSV files and workbooks; leave it out for --input {path}")
        return _json_rows(path)
    if (kind := file_kind(path, suffix_of(path))) not in ("csv", "tsv"):
        return _checked(open_table(path, reading), path)
    if reading.quoting not in (None, "rfc"):
        return _checked(CsvTable(path, reading, tabs=kind == "tsv"), path)
    return _csv_rows(path, reading, column, tabs=kind == "tsv")


def _json_rows(path: Path) -> Rows:
    with open(path, "rb") as file:
        for number, line in read_lines(file, path):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield number, _json_row(line, f"--input {path} line {number}")


def _json_row(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = parse_json(line, place, nan_is_null=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object")
    return row


def _checked(table: Table, path: Path) -> Rows:
    """The rows of a table as `data.ingest` reads them. Raises UserError for one that it would reject; empty ones are none."""
    from data.ingest.row import RowError

    for text in getattr(table, "notes", ()):
        note(text)
    for number, row in table.rows():
        if not isinstance(row, RowError):
            yield number, row
        elif row != "empty_row":
            problem = _PROBLEMS.get(row, str(row).replace("_", " "))
            value = _PLACE.sub("", row.value)
            raise UserError(f"--input {path} line {number} {problem}{f' {plain(value)}' if value else ''}; mend that row")


def _csv_rows(path: Path, reading: Reading, column: str | None, *, tabs: bool) -> Rows:
    """A CSV file by RFC 4180, all of it checked before the first row; or in a way to quote that fits every row."""
    from dataclasses import replace

    from data.ingest.reading.csv_table import CsvTable

    table = CsvTable(path, replace(reading, quoting="rfc"), tabs=tabs)
    line = _line_of(column, table, path) if column and reading.header_line is None else None
    if line is not None and line != table.skipped:  # what ingest takes for a title may be a header of fewer cells than a row
        reading = replace(reading, header_line=line)
        table = CsvTable(path, replace(reading, quoting="rfc"), tabs=tabs)
    try:
        for _ in _records(table, path):
            pass
    except UserError:
        other = None if reading.quoting else _other_way(path, reading, tabs=tabs)
        if other is None:
            raise
        return _checked(other, path)
    for text in table.notes:
        note(text)
    return _records(table, path)


def _line_of(column: str, table: CsvTable, path: Path) -> int | None:
    """The line of the first record with a cell `column`; None where none of the first has it."""
    try:
        with table.file.open() as file:
            reader = csv.reader(_without_nul(file, path), delimiter=table.dialect.delimiter, strict=True)
            return next((reader.line_num for cells in itertools.islice(reader, _FIRST) if column in map(_name, cells)), None)
    except (csv.Error, UnicodeError, UserError):
        return None


def _other_way(path: Path, reading: Reading, *, tabs: bool) -> CsvTable | None:
    """The table in the one way to quote that reads all its rows, where it is not RFC 4180; None where there is none."""
    from data.ingest.reading.csv_table import CsvTable

    try:
        table = CsvTable(path, reading, tabs=tabs)
        whole = table.dialect.quoting in _SURE and all(isinstance(row, dict) or row == "empty_row" for _, row in table.rows())
    except UserError:
        return None
    return table if whole else None


def _records(table: CsvTable, path: Path) -> Rows:
    limit = csv.field_size_limit(MOST_BYTES)  # of one cell: an answer may be longer than Python's 128 KiB
    number, header = 1, None
    try:
        with table.file.open() as file:
            reader = csv.reader(_without_nul(file, path), delimiter=table.dialect.delimiter, strict=True)
            for cells in reader:
                number, place = reader.line_num, f"--input {path} line {reader.line_num}"
                if header is not None and any(cells):
                    yield number, _named(header, cells, place)
                elif number == table.skipped:
                    header = _header(cells, place)
                    if len(table.names) == len(header) + 1 and table.names[0] is None:
                        header.insert(0, "")  # R writes no name for the number of a row
                number += 1
    except UnicodeError:
        raise table.file.wrong_encoding("in its rows") from None
    except csv.Error as error:
        raise UserError(f"--input {path} line {number} is no valid CSV ({error}); quote its cells") from None
    finally:
        csv.field_size_limit(limit)


def _header(cells: list[str], place: str) -> list[str]:
    """The names of the columns, the empty ones at the end left out."""
    names = list(map(_name, cells))
    while names and not names[-1]:
        names.pop()
    for name in filter(None, names):
        if names.count(name) > 1:
            raise UserError(f"{place} has the column {name!r} twice; rename one of them")
    return names


def _name(cell: str) -> str:
    return " ".join(cell.split())


def _named(header: list[str], cells: list[str], place: str) -> dict[str, Any]:
    """A row's cells by column; cells that a short row lacks are None."""
    if any(cells[len(header) :]):
        raise UserError(f"{place} has more cells than the header; quote its commas")
    return dict(zip(header, [*cells, *[None] * (len(header) - len(cells))]))


def _without_nul(lines: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"--input {path} line {number} holds a NUL character; save the file as UTF-8 text")
        if not line.isascii() and re.search("[\udc80-\udcff]", line):  # a byte that is not in the encoding
            raise UserError(f"--input {path} line {number} is not UTF-8; save the file as UTF-8, or see --encoding")
        yield line
