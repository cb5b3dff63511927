"""The rows of a table of predictions that another tool wrote: CSV, TSV or JSONL, each with its line number."""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_phi3v.documents import MOST_BYTES, parse_json
from mlx_phi3v.errors import UserError

from .lines import read_lines

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, columns) of a CSV, TSV or JSONL file.

    Raises UserError where the file is missing or of another kind; and, on the way, for a line that cannot be parsed.
    """
    if not path.exists():
        raise UserError(f"--input {path} does not exist; check the path")
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"--input {path} is neither .csv, .tsv nor .jsonl; rename or convert it")
    if not path.exists():
        raise UserError(f"--input {path} does not exist")
    if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe or a device might never end
        raise UserError(f"--input {path} is a {'folder' if path.is_dir() else 'device'}; give a file")
    return _json_rows(path) if kind == ".jsonl" else _table_rows(path, "\t" if kind == ".tsv" else ",")


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    limit = csv.field_size_limit(MOST_BYTES)  # of one cell: an answer may be longer than Python's 128 KiB
    number = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_without_nul(file, path), delimiter=delimiter, strict=True)
            header = next(reader, None)
            _check_header(header or [], path)
            number = reader.line_num + 1
            for cells in reader:
                if header is not None and cells:
                    yield reader.line_num, _named(header, cells, f"--input {path} line {reader.line_num}")
                number = reader.line_num + 1
    except UnicodeDecodeError:
        number, reason = _not_utf8(path)
        raise UserError(f"--input {path} line {number} is not UTF-8 ({reason}); save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"--input {path} line {number} is no valid CSV ({error}); quote its cells") from None
    finally:
        csv.field_size_limit(limit)


def _check_header(header: list[str], path: Path) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"--input {path} line 1 has the column {name!r} twice; rename one of them")


def _named(header: list[str], cells: list[str], place: str) -> dict[str, Any]:
    """A row's cells by column; cells that a short row lacks are None."""
    if len(cells) > len(header):
        raise UserError(f"{place} has more cells than the header; quote its commas")
    return dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=True))


def _without_nul(lines: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"--input {path} line {number} holds a NUL character; save the file as UTF-8 text")
        yield line


def _not_utf8(path: Path) -> tuple[int, str]:
    """(line, reason) of the first bytes that are not UTF-8."""
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, error.reason
    return number, "truncated"
