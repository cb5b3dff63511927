"""The lines of a run's JSONL files: as strict as `mlx_phi3v.documents`, and fast enough for 100,000 rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Generic, NoReturn, Protocol, TypeVar

import msgspec

from mlx_phi3v.documents import MOST_BYTES, check_shape, parse_json, refuse_mark
from mlx_phi3v.errors import UserError


class Line(Protocol):
    """A declared shape that knows how many colons a line of it has."""

    def colons(self) -> int:
        """How many colons the line has, those in its texts too, where it has no key beyond the declared ones, none twice."""


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
        # msgspec takes the last of two equal keys and reads over keys that it does not know; either adds colons to the line.
        # Then the slow parser looks, which knows both; and where a text may hold a colon as an escape.
        if line.count(b":") != value.colons() or b"\\u003" in line:
            self._parse(line, path, number)
        return value

    def _parse(self, line: bytes, path: Path, number: int) -> None:
        place = f"{path} line {number}"
        refuse_mark(line, place)
        if not line.strip():
            raise UserError(f"{place} is blank; remove that line")
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


def read_lines(file: BinaryIO, path: Path, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """(number, line) from the file's position on. Raises UserError for a line that no machine should hold at once."""
    number = first
    while line := file.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise UserError(f"{path} line {number} has more than {MOST_BYTES} bytes; it is no line of a run")
        yield number, line
        number += 1
