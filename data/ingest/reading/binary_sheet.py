"""How far the cells of a sheet of XLSB reach, by its records (MS-XLSB 2.1.4: type, size and content of each)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

_ROW = 0  # BrtRowHdr, which begins with the number of the row
_FIRST_CELL, _LAST_CELL = 2, 11  # BrtCellRk to BrtFmlaError, which begin with the column; 1 is a cell that only has a style
_LONGEST_HEAD = 10  # bytes: type, size and the first number of a record


def binary_extent(blocks: Iterable[bytes]) -> tuple[int, int]:
    """(rows, columns) up to the farthest cell with content of a sheet, given in blocks of bytes."""
    rows = columns = row = 0
    data, at = b"", 0  # `at` is beyond the data while a long record is passed over
    for block in itertools.chain(blocks, [None]):
        if at > len(data):
            at, data = at - len(data), block or b""
        else:
            at, data = 0, data[at:] + (block or b"")
        end = len(data) - (0 if block is None else _LONGEST_HEAD)
        while at < end:
            kind, place = data[at], at + 1
            if kind >= 0x80:
                kind, place = kind & 0x7F | (data[place : place + 1] or b"\0")[0] << 7, place + 1
            size = shift = 0
            for byte in data[place : place + 4]:
                place += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            at = place + size
            if kind == _ROW:
                row = int.from_bytes(data[place : place + 4], "little")
            elif _FIRST_CELL <= kind <= _LAST_CELL:
                rows, columns = max(rows, row + 1), max(columns, int.from_bytes(data[place : place + 4], "little") + 1)
    return rows, columns
