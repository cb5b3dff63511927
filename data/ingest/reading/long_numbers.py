"""A JSON file's bytes, refused where a number has more digits than Python reads: ijson's own parser crashes on one."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.errors import UserError

MOST_DIGITS = 4300  # of a whole number, as Python's int() takes them by default (sys.int_info.default_max_str_digits)
_STEP = 4096  # a longer run of digits holds a byte at one of these distances
_DIGITS = re.compile(rb"[0-9]*")


class NumberGuard(io.RawIOBase):
    """Reads from `file`; raises UserError that names `path` for a run of more than MOST_DIGITS digits."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path, self._tail = file, path, b""

    def readable(self) -> bool:
        """As a file."""
        return True

    def seekable(self) -> bool:
        """As the file itself."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file."""
        self._tail = b""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` -> bytes read."""
        data = self._file.read(len(buffer))
        seen = self._tail + data
        if has_long_number(seen):
            raise UserError(f"{self._path} holds a number of more than {MOST_DIGITS:,} digits; remove it, or write it as text")
        self._tail = seen[-MOST_DIGITS:]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        super().close()


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
