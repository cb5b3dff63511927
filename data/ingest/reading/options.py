"""What a user may say about how files are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quoting = Literal["rfc", "spaced", "backslash", "quote-only", "single", "none"]


@dataclass(frozen=True)
class Reading:
    """How table files are read. What is None is found in the file; `quick`: by its first rows alone.

    header_line: the line or row, from 1, with the names of the columns.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quoting: Quoting | None = None
    header_line: int | None = None
    sheet: str | None = None
    quick: bool = False
