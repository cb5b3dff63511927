"""How deeply JSON is nested, found in its bytes: a parser's memory grows with the square of it."""

from __future__ import annotations

import numpy as np

MOST_LEVELS = 500  # Python's own recursion ends at 1,000
_QUOTE, _OPEN, _CLOSE = b'"{}'
_CURLY = 0x20  # the bit by which { and } differ from [ and ]


class Nesting:
    """The levels of a JSON text that comes in pieces."""

    def __init__(self) -> None:
        self._level = 0
        self._in_text = False
        self._held = b""  # a backslash whose next byte is not here yet

    def deepest(self, data: bytes) -> int:
        """The deepest level within the next piece."""
        data = self._held + data
        self._held = b"\\" if (len(data) - len(data.rstrip(b"\\"))) % 2 else b""
        plain = data[: len(data) - len(self._held)]
        if b"\\" in plain:
            plain = plain.replace(rb"\\", b"").replace(rb"\"", b"")
        letters = np.frombuffer(plain, np.uint8)
        quotes = np.flatnonzero(letters == _QUOTE)
        curly = letters | _CURLY
        brackets = np.flatnonzero((curly == _OPEN) | (curly == _CLOSE))
        # A bracket is text behind an odd number of quotes.
        outside = (np.searchsorted(quotes, brackets) + self._in_text) % 2 == 0
        self._in_text ^= len(quotes) % 2 == 1
        levels = self._level + np.cumsum(np.where(curly[brackets[outside]] == _OPEN, 1, -1))
        before, self._level = self._level, int(levels[-1]) if levels.size else self._level
        return max(before, int(levels.max(initial=before)))
