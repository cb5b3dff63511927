"""A JSON file as the values it holds, one after another, wherever its rows are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.text import storable

from ..row import Row, RowError, whole
from .byte_streams import MAX_LINE, WrappedFile, open_bytes, read_line
from .encodings import read_mark
from .json_shape import JsonShape, find_shape, not_json
from .long_numbers import guarded

_MAX_DEPTH = 50  # of the lists and objects in one row


class JsonFile:
    """A JSON file, also compressed and in any Unicode encoding, and where its rows are. Raises UserError where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        name = path.name.lower()
        with whole(path), self.open_file() as file:
            self.shape: JsonShape = find_shape(
                file, path, lines=name.split(".json", 1)[-1].startswith("l") or ".ndjson" in name
            )

    def open_file(self) -> IO[bytes]:
        """The file's bytes, in UTF-8."""
        file = open_bytes(self.path)
        start = file.read(256)
        mark = read_mark(start)
        file.close()
        file = open_bytes(self.path)
        if mark == "utf-8-sig":
            file.read(3)
        elif mark is not None:
            return io.BufferedReader(_AsUtf8(io.TextIOWrapper(file, encoding=mark, newline="")))
        return file

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each object with its line (JSON lines) or its place in the list, from 1."""
        return self._lines() if self.shape.is_lines else self._items()

    def objects(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of the list that the file's object has under `name`."""
        import ijson

        with whole(self.path), guarded(self.open_file(), self.path) as file:
            try:
                yield from (_with_floats(item) for item in ijson.items(file, f"{name}.item") if isinstance(item, dict))
            except (ijson.JSONError, ValueError, RecursionError) as error:
                raise not_json(self.path, error) from None

    def _lines(self) -> Iterator[tuple[int, Row]]:
        with whole(self.path), self.open_file() as file:
            for number, line in enumerate(_bounded_lines(file), 1):
                if line is None:
                    yield number, RowError("malformed_row", f"a line of more than {MAX_LINE:,} bytes")
                    continue
                line = line.strip().removeprefix(b"\x1e").removesuffix(b",")  # of JSON sequences, and of lists cut into lines
                if not line or line in (b"[", b"]"):
                    continue
                try:
                    value = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    yield number, RowError("malformed_row")
                    continue
                yield number, json_row(self.shape.unwrapped(value))

    def _items(self) -> Iterator[tuple[int, Row]]:
        import ijson

        with whole(self.path), guarded(self.open_file(), self.path) as file:
            values = enumerate(self.shape.items(file, self.path), 1)
            while True:
                try:
                    number, value = next(values)
                except StopIteration:
                    return
                except (ijson.JSONError, ValueError, RecursionError) as error:
                    raise not_json(self.path, error) from None
                row = json_row(value)
                yield number, row if isinstance(row, RowError) else _with_floats(row)


class _AsUtf8(WrappedFile):
    """A text file's bytes as if it were written in UTF-8."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        super().__init__(file)
        self._encoding, self._left = file.encoding, b""

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            try:
                self._left = self._file.read(1 << 16).encode("utf-8", "replace")
            except UnicodeError as error:
                raise OSError(f"its text is not {self._encoding} ({error})") from None
        piece, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file; None for one that is longer than `MAX_LINE`, of which no more than that is held."""
    while True:
        line, is_whole = read_line(file, MAX_LINE)
        if not line:
            return
        yield line if is_whole else None


def _with_floats(value: Any) -> Any:
    """The values of `json.loads` for those of ijson, which gives decimals."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def json_row(value: Any) -> Row:
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
