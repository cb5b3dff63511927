"""One row of a table as it is read, or the reason why it cannot be, and what a table is."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mlx_phi3v.errors import UserError


class RowError(str):
    """The reason why a row of a table cannot be read, in place of its values. `value` is what is wrong in it."""

    value: str

    def __new__(cls, reason: str, value: str = "") -> RowError:
        self = super().__new__(cls, reason)
        self.value = value
        return self


Row = dict[str, Any] | RowError


class Table(Protocol):
    """Rows with named columns. `rows` starts again at each call; `count` may be an estimate."""

    kind: str
    columns: dict[str, pa.DataType]
    count: int

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line or row number as an editor shows it, values by column or the RowError)."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """A file that ends early, is corrupt or cannot be read is one sentence."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut or corrupt ({first_line(error)}); get it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; get it again") from None


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
