"""The lines of a run's JSONL files: as strict as `mlx_phi3v.documents`, and fast enough for 100,000 rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Generic, NoReturn, Protocol, TypeVar

import msgspec

from mlx_phi3v.documents import MOST_BYTES, check_shape, parse_json
from mlx_phi3v.errors import UserError


class Line(Protocol):
    """A declared shape that knows how many keys a line of it has."""

    def keys(self) -> int:
        """How many keys the line has, at any depth, where it has none beyond the declared ones."""


Shape = TypeVar("Shape", bound=Line)


class LineDecoder(Generic[Shape]):
    """Reads lines of one shape; `what` is what a line is called ("prediction")."""

    def __init__(self, shape: type[Shape], what: str) -> None:
        self._shape = shape
        self._what = what
        self._decoder = msgspec.json.Decoder(shape)

    def read(self, line: bytes, path: Path, number: int) -> Shape:
        """Line `number` of `path`.

        Raises UserError that names file, line, key and what must stand there, for a line that is no JSON by the letter (see
        `documents.read_json`) or of another shape.
        """
        try:
            value = self._decoder.decode(line)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            self._refuse(line, path, number, error)
        # msgspec takes the last of two equal keys and reads over keys that it does not know. As many keys as were read are
        # in the line: then neither is there. Else the slow parser looks, which knows both.
        if not _has_keys(line, value.keys()):
            self._parse(line, path, number)
        return value

    def _parse(self, line: bytes, path: Path, number: int) -> None:
        place = f"{path} line {number}"
        try:
            value = parse_json(line, place)
        except ValueError as error:
            raise UserError(f"{place} is not whole JSON ({error}); remove that line and resume the run") from None
        try:
            check_shape(value, self._shape, "it")
        except UserError as error:
            raise UserError(f"{place} is no {self._what}: {str(error).removeprefix('it: ')}") from None

    def _refuse(self, line: bytes, path: Path, number: int, error: Exception) -> NoReturn:
        self._parse(line, path, number)
        raise UserError(f"{path} line {number} cannot be read ({error}); remove that line and resume the run") from None


def _has_keys(line: bytes, keys: int) -> bool:
    """Whether the JSON text `line` surely has so many keys, no more and no fewer.

    A quote within a text has a backslash before it: so `":` ends a key, and `\\":` is text. Spaces before a colon and a key
    that ends in a backslash are left to the slow parser.
    """
    if line.count(b'":') - line.count(b'\\":') != keys or b'\\\\":' in line:
        return False
    return not (b" :" in line and b'" :' in line) and b"\t:" not in line and b"\r:" not in line and b"  :" not in line


def read_lines(file: BinaryIO, path: Path, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """(number, line) from the file's position on. Raises UserError for a line that no machine should hold at once."""
    number = first
    while line := file.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise UserError(f"{path} line {number} has more than {MOST_BYTES} bytes; it is no line of a run")
        yield number, line
        number += 1
