"""Tables read row by row in constant memory: CSV, JSON, JSON lines, Parquet, `datasets`."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.text import storable

from .arrow_tables import ParquetTable
from .row import Row, RowError, first_line, whole

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_DELIMITERS = ",;\t|"
_MAX_LINE = 256_000_000  # bytes or characters of a line: a photo of 50 MB in base64 fits several times
_MAX_DEPTH = 50  # of the lists and objects in one JSON row


class Table(Protocol):
    """Rows with named columns. `rows` starts again at each call; `count` may be an estimate."""

    kind: str
    columns: dict[str, pa.DataType]
    count: int

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line or row number as an editor shows it, values by column or the RowError)."""


def open_table(path: Path, *, encoding: str = "utf-8", delimiter: str | None = None) -> Table:
    """A table file by its suffix; `.gz` may follow it for text. Raises UserError where it cannot be read."""
    suffix = _suffix(path)
    try:
        if suffix in (".csv", ".tsv"):
            return CsvTable(path, encoding, delimiter or ("\t" if suffix == ".tsv" else None))
        if suffix in (".json", ".jsonl", ".ndjson"):
            return JsonTable(path)
        return ParquetTable(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def is_table(path: Path) -> bool:
    """Whether `open_table` knows the suffix."""
    return _suffix(path) in SUFFIXES


def _suffix(path: Path) -> str:
    names = [suffix.lower() for suffix in path.suffixes]
    if names[-1:] == [".gz"] and names[-2:-1] != [".parquet"]:
        names = names[:-1]
    return names[-1] if names else ""


def _open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    file = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")  # noqa: SIM115
    # The mark that Excel puts at the start of a UTF-8 file is not part of the first column's name.
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        return io.TextIOWrapper(file, encoding=name, newline="")
    except LookupError:
        raise UserError(f"--encoding {encoding} is unknown; try utf-8, cp1252 or utf-16") from None


class CsvTable:
    """A CSV file with a header. All values are text, so that codes keep their zeros and prices their marks."""

    kind = "csv"

    def __init__(self, path: Path, encoding: str, delimiter: str | None) -> None:
        self.path = path
        self.encoding = encoding
        with whole(path), _open_text(path, encoding) as file:
            header = self._read(file)
        if not header.strip():
            raise UserError(f"{path} is empty; a CSV file needs a header line with the names of its columns")
        self.delimiter = delimiter or max(_DELIMITERS, key=header.count)
        try:
            names = next(csv.reader([header], delimiter=self.delimiter))
        except csv.Error as error:
            raise UserError(f"{path} has no header that can be read ({error}); name every column in its first line") from None
        self.names = [name.strip() for name in names]
        if "" in self.names:
            raise UserError(f"{path} has no name for column {self.names.index('') + 1}; name every column in its first line")
        doubled = next((name for name in self.names if self.names.count(name) > 1), None)
        if doubled:
            raise UserError(f"{path} has two columns named {doubled!r}; rename one in its first line")
        self.columns = {name: pa.string() for name in self.names}
        self.count = max(0, _count_lines(path) - 1)

    def _read(self, file: io.TextIOWrapper) -> str:
        try:
            return file.readline(_MAX_LINE)
        except UnicodeError:
            raise self._wrong_encoding("its first line") from None

    def _wrong_encoding(self, place: str) -> UserError:
        return UserError(f"{self.path} is not {self.encoding} text ({place}); give its encoding, such as --encoding cp1252")

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each data row with the number of its last line in the file."""
        with whole(self.path), _open_text(self.path, self.encoding) as file:
            reader = csv.reader(iter(lambda: file.readline(_MAX_LINE), ""), delimiter=self.delimiter)
            next(reader)
            while True:
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except UnicodeError:
                    raise self._wrong_encoding(f"after line {reader.line_num}") from None
                except csv.Error:
                    yield reader.line_num, RowError("malformed_row")
                    continue
                if not values:
                    continue  # a blank line
                if len(values) != len(self.names):
                    yield reader.line_num, RowError("wrong_number_of_columns")
                else:
                    yield reader.line_num, dict(zip(self.names, values))


def _count_lines(path: Path) -> int:
    with whole(path), gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        pieces = iter(lambda: file.read(1 << 20), b"")
        return sum(piece.count(b"\n") for piece in pieces)


class JsonTable:
    """A JSON list of objects, or one object a line. Columns are those that any row has; carried along as text."""

    kind = "json"

    def __init__(self, path: Path) -> None:
        self.path = path
        with whole(path), _open_text(path, "utf-8") as file:
            self.is_list = self._first_character(file) == "["
        self.columns: dict[str, pa.DataType] = {}
        self.count = 0
        for _, row in self.rows():
            self.count += 1
            if not isinstance(row, RowError):
                self.columns.update((key, pa.string()) for key in row.keys() - self.columns.keys() if key)
        if not self.columns:
            raise UserError(f"{path} holds no rows; write a JSON list of objects or one object a line")
        self.columns = dict(sorted(self.columns.items()))

    def _first_character(self, file: io.TextIOWrapper) -> str:
        try:
            while (character := file.read(1)).isspace():
                pass
        except UnicodeError:
            raise UserError(f"{self.path} is not UTF-8 text; save it as UTF-8") from None
        return character

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each object with its line (JSON lines) or its place in the list, from 1."""
        return self._listed() if self.is_list else self._lines()

    def _lines(self) -> Iterator[tuple[int, Row]]:
        with whole(self.path), self._open() as file:
            for number, line in enumerate(_bounded_lines(file), 1):
                if line is None:
                    yield number, RowError("malformed_row", f"a line of more than {_MAX_LINE:,} bytes")
                    continue
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    yield number, RowError("malformed_row")
                    continue
                yield number, _json_row(value)

    def _open(self) -> Any:
        return gzip.open(self.path, "rb") if self.path.suffix.lower() == ".gz" else open(self.path, "rb")

    def _listed(self) -> Iterator[tuple[int, Row]]:
        import ijson

        with whole(self.path), self._open() as file:
            values = enumerate(ijson.items(file, "item"), 1)  # with use_float, a number of 20 digits would end it
            while True:
                try:
                    number, value = next(values)
                except StopIteration:
                    return
                except (ijson.JSONError, ValueError, RecursionError) as error:
                    raise UserError(f"{self.path} is not valid JSON ({first_line(error)}); it may be truncated") from None
                row = _json_row(value)
                yield number, row if isinstance(row, RowError) else _with_floats(row)


def _bounded_lines(file: Any) -> Iterator[bytes | None]:
    """The lines of a file; None for one that is longer than `_MAX_LINE`, of which no more than that is held."""
    while line := file.readline(_MAX_LINE):
        if len(line) < _MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None


def _with_floats(value: Any) -> Any:
    """The values of `json.loads` for those of ijson, which gives decimals."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _json_row(value: Any) -> Row:
    """The object of a row, or why it cannot be one: another value, a key that is no text, nested without end."""
    if not isinstance(value, dict):
        return RowError("malformed_row", type(value).__name__)
    wrong = next((key for key in value if storable(key) != key), None)
    if wrong is not None:
        return RowError("malformed_row", wrong)
    return value if _within_depth(value, _MAX_DEPTH) else RowError("malformed_row", "nested too deeply")


def _within_depth(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_within_depth(item, depth - 1) for item in items)
