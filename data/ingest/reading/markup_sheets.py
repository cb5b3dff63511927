"""Sheets that are text: the table of a web page, which many shops call .xls, and Excel's XML of 2003. Read by lxml."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError

from ..row import first_line
from .byte_streams import open_bytes
from .markup import load_lxml, local_name, xml_events

_MOST_BYTES = 512_000_000  # all of it is held in memory
_MOST_CELLS = 16_384  # of a row, as many as Excel has columns
_MOST_ROWS = 1_048_576  # as many as Excel has
_MOST_IN_ALL = 50_000_000  # cells: few bytes of a file may ask for many
_SHEET_SPACE = "urn:schemas-microsoft-com:office:spreadsheet"
_INDEX, _NAME, _TYPE, _ACROSS = (f"{{{_SHEET_SPACE}}}{name}" for name in ("Index", "Name", "Type", "MergeAcross"))

Sheet = list[list[Any]]


def is_xml_sheet(start: bytes) -> bool:
    """Whether a file begins as Excel's XML of 2003 does."""
    return _SHEET_SPACE.encode() in start


def has_table(path: Path) -> bool:
    """Whether a web page holds a table, by its text."""
    with open_bytes(path) as file:
        last = b""
        while block := file.read(1 << 20):
            if b"<table" in (last + block).lower():
                return True
            last = block[-8:]
    return False


def html_sheets(path: Path) -> dict[str, Sheet]:
    """The tables of a web page, named by their number. Raises UserError where none has two rows."""
    data, html = _whole(path), load_lxml(path).html
    encoding = None if b"charset" in data[:4096].lower() or data[:2] in (b"\xff\xfe", b"\xfe\xff") else _encoding(data)
    try:
        root = html.document_fromstring(data, parser=html.HTMLParser(encoding=encoding))
    except Exception as error:  # lxml raises errors of several kinds
        raise UserError(f"{path} cannot be read as a web page ({first_line(error)}); save its table as CSV UTF-8") from None
    tables = []
    for table in root.iter("table"):
        own = (row for row in table.iter("tr") if next(row.iterancestors("table")) is table)
        tables.append(_bounded(path, map(_html_row, own)))
    found = {f"table {number}": rows for number, rows in enumerate(tables, 1) if len(rows) > 1}
    if not found:
        raise UserError(f"{path} is a web page without a table of rows; save the table as CSV UTF-8 or XLSX")
    return found


def _bounded(path: Path, rows: Iterable[list[Any]]) -> Sheet:
    """The rows as a list. Raises UserError where they have more cells than memory should hold."""
    sheet: Sheet = []
    cells = 0
    for row in rows:
        sheet.append(row)
        cells += len(row) + 1
        if cells > _MOST_IN_ALL:
            raise UserError(f"{path} has more than {_MOST_IN_ALL:,} cells; save the sheet as CSV UTF-8")
    return sheet


def _html_row(row: Any) -> list[Any]:
    cells: list[Any] = []
    for cell in row.iterchildren("td", "th"):
        cells.append(_html_text(cell) or None)
        span = cell.get("colspan", "1")
        cells += [None] * min(_MOST_CELLS, int(span) - 1 if span.isdecimal() else 0)
    return cells[:_MOST_CELLS]


def _html_text(cell: Any) -> str:
    """The text of a cell; where it has none, the addresses of its pictures or links."""
    text = " ".join(cell.text_content().split())
    if text:
        return text
    return ", ".join(
        link for name, key in (("img", "src"), ("a", "href")) for item in cell.iter(name) if (link := item.get(key))
    )


def xml_sheets(path: Path) -> dict[str, Sheet]:
    """The sheets of Excel's XML of 2003 by their names. Raises UserError where it is not well-formed."""
    _whole(path, hold=False)
    found: dict[str, Sheet] = {}
    for name, rows in itertools.groupby(_xml_rows(xml_events(path)), key=lambda pair: pair[0]):
        found[name] = _bounded(path, (row for _, row in rows))
    return found


def _xml_rows(events: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """(the sheet's name, the cells) of each row; rows that are left out are empty."""
    names: set[str] = set()
    name, number = "", 0
    for event, element in events:
        tag = local_name(element.tag)
        if event == "start" and tag == "Worksheet":
            name, number = element.get(_NAME, ""), 0
            name = name if name and name not in names else f"sheet {len(names) + 1}"
            names.add(name)
        elif event == "end" and tag == "Row" and name:
            skipped = max(0, min(_number(element.get(_INDEX)), _MOST_ROWS) - 1 - number)
            yield from ((name, []) for _ in range(skipped))
            yield name, _xml_row(element)
            number += skipped + 1
            element.clear()


def _xml_row(row: Any) -> list[Any]:
    cells: list[Any] = []
    for cell in row:
        if not isinstance(cell.tag, str) or local_name(cell.tag) != "Cell":
            continue
        cells += [None] * min(_number(cell.get(_INDEX)) - 1 - len(cells), _MOST_CELLS)
        cells.append(next(_xml_values(cell), None))
        cells += [None] * min(_number(cell.get(_ACROSS)), _MOST_CELLS)
    return cells[:_MOST_CELLS]


def _xml_values(cell: Any) -> Iterator[Any]:
    for data in cell:
        if isinstance(data.tag, str) and local_name(data.tag) == "Data":
            text, kind = "".join(data.itertext()), data.get(_TYPE)
            try:
                yield (
                    float(text) if kind == "Number" else text == "1" if kind == "Boolean" else None if kind == "Error" else text
                )
            except ValueError:
                yield text


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 8 else 0


def _whole(path: Path, *, hold: bool = True) -> bytes:
    with open_bytes(path) as file:
        data, size = (file.read(_MOST_BYTES + 1), 0) if hold else (b"", 0)
        while not hold and size <= _MOST_BYTES and (block := file.read(1 << 20)):
            size += len(block)
    if max(len(data), size) > _MOST_BYTES:
        raise UserError(f"{path} is a table of more than {_MOST_BYTES // 1_000_000} MB as text; save it as CSV UTF-8")
    return data


def _encoding(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"
