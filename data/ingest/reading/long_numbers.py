"""A JSON file's bytes, refused before ijson crashes on them: numbers of too many digits, and too deep a nesting."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.errors import UserError

from .byte_streams import WrappedFile
from .nesting import MOST_LEVELS, Nesting

MOST_DIGITS = 4300  # of a whole number, as Python's int() takes them by default (sys.int_info.default_max_str_digits)
_STEP = 4096  # a longer run of digits holds a byte at one of these distances
_DIGITS = re.compile(rb"[0-9]*")


def guarded(file: IO[bytes], path: Path) -> IO[bytes]:
    """`file` for ijson; reading raises UserError that names `path` for what ijson cannot read.

    That is a number of more than MOST_DIGITS digits, and more than `nesting.MOST_LEVELS` levels.
    """
    return io.BufferedReader(_Guard(file, path), 1 << 18)


class _Guard(WrappedFile):
    """Reads from `file`; raises UserError that names `path`, see `guarded`."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self._path, self._tail, self._nesting = path, b"", Nesting()

    def seekable(self) -> bool:
        """As the file itself."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file."""
        self._tail, self._nesting = b"", Nesting()
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` -> bytes read."""
        data = self._file.read(len(buffer))
        seen = self._tail + data
        if has_long_number(seen):
            raise UserError(f"{self._path} holds a number of more than {MOST_DIGITS:,} digits; remove it, or write it as text")
        if self._nesting.deepest(data) > MOST_LEVELS:
            raise UserError(f"{self._path} is nested too deeply; it must have at most {MOST_LEVELS} levels")
        self._tail = seen[-MOST_DIGITS:]
        buffer[: len(data)] = data
        return len(data)


def has_long_number(data: bytes) -> bool:
    """Whether `data` holds a run of more than MOST_DIGITS digits."""
    for place in range(0, len(data), _STEP):
        if 48 <= data[place] <= 57:  # "0" to "9"
            end = _DIGITS.match(data, place)
            before = data[max(0, place - MOST_DIGITS) : place]
            assert end
            if end.end() - place + len(before) - len(before.rstrip(b"0123456789")) > MOST_DIGITS:
                return True
    return False
