"""A sheet of a workbook: XLSX, XLS, XLSB and ODS, by python-calamine; and sheets that are text."""

from __future__ import annotations

import datetime
import functools
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from ..row import Row, RowError, first_line, whole
from .binary_sheet import binary_extent
from .byte_streams import missing_package
from .header import column_names, find_header, is_blank, is_header_again
from .markup_sheets import html_sheets, xml_sheets
from .sheet_pictures import SheetPictures

SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_MOST_UNPACKED = 2 << 30  # bytes of a workbook's XML: the sheet is held in memory
_MOST_RATIO = 1032  # of deflate; a smaller file cannot hold more
_SAMPLE_ROWS = 2000
_MOST_CELLS = 50_000_000  # between the first and the last: calamine holds them all, and ends the process where it cannot
# A cell with content, and a row; a cell that only has a style ends in "/>", and is often far away.
_CELL = re.compile(rb'<(?:\w+:)?c(?=[\s>])(?:[^>]*?\sr="([A-Z]{1,3})([0-9]{1,7})")?[^>]*(?<!/)>')
_ROW = re.compile(rb'<(?:\w+:)?row\s[^>]*?\br="([0-9]{1,7})"')
_LONGEST_TAG = 500  # bytes


class SheetTable:
    """The rows of one sheet. Numbers stay numbers, whole ones without a point; dates become ISO text."""

    kind = "sheet"

    def __init__(self, path: Path, *, form: str = "sheet", sheet: str | None = None, header_line: int | None = None) -> None:
        """`form`: "sheet" of a workbook, "html" of a web page, "xml-sheet" of Excel's XML of 2003."""
        self.path = path
        self.notes: list[str] = []
        if form == "sheet":
            _refuse_bomb(path)
            _refuse_far_cells(path)
            self._name, self._rows, first, left = _open_sheet(path, sheet, self.notes)
            pictures = SheetPictures(path, self._name)
        else:
            pictures, left = None, 0
            sheets, first = (html_sheets if form == "html" else xml_sheets)(path), 0
            sizes = {name: (len(rows), max(map(len, rows), default=0)) for name, rows in sheets.items()}
            self._name = _chosen(path, sizes, sheet, self.notes)
            self._rows = sheets[self._name]
        place = find_header(self._rows[:_SAMPLE_ROWS]) if header_line is None else header_line - 1 - first
        if place is None or not 0 <= place < len(self._rows):
            raise UserError(f"{path}: the sheet {self._name!r} is empty; it needs a row with the names of its columns")
        if header_line is None and any(not is_blank(row) for row in self._rows[:place]):
            self.notes.append(
                f"the columns of {path.name} are named in row {first + place + 1}, below a title; --header-line says otherwise"
            )
        self.names = column_names(self._rows[place], self._rows[place + 1 : place + 1 + _SAMPLE_ROWS])
        self._start, self._first = place + 1, first
        self.columns = {name: pa.string() for name in self.names if name is not None}
        self._pictures = pictures
        self._media: dict[int, dict[str, list[str]]] = {}  # row -> column -> pictures inside
        if pictures is not None:
            self._place_pictures(pictures, left)
        while len(self._rows) > self._start and is_blank(self._rows[-1]):
            self._rows.pop()
        self.count = len(self._rows) - self._start

    def _place_pictures(self, pictures: SheetPictures, left: int) -> None:
        """Give each picture that the workbook holds to a row and a column: the one it is in, or one of its own beside text."""
        found = {(row - self._first, column - left): media for (row, column), media in pictures.places.items()}
        for row in range(self._start, len(self._rows)):
            for column, cell in enumerate(self._rows[row]):
                if (media := pictures.named(cell)) is not None:
                    found[row, column] = [media]
        below = {place: media for place, media in found.items() if self._start <= place[0] < len(self._rows)}
        for (row, column), media in sorted(below.items()):
            name = self.names[column] if 0 <= column < len(self.names) else None
            if name is None or any(_is_text(self._rows[line], column) for line, at in below if at == column):
                name = "picture" if "picture" not in self.names else "picture_inside"
            self._media.setdefault(row, {}).setdefault(name, []).extend(media)
            self.columns[name] = pa.binary()
        if self._media:
            columns = ", ".join(dict.fromkeys(name for names in self._media.values() for name in names))
            self.notes.append(f"the pictures inside {self.path.name} are the values of {columns} in their rows")

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number in the sheet. Empty rows at the end are none."""
        if not self._media or self._pictures is None:
            yield from self._plain_rows()
            return
        with whole(self.path), zipfile.ZipFile(self.path) as book:
            for number, row in self._plain_rows():
                media = self._media.get(number - self._first - 1, {})
                if isinstance(row, dict):
                    row |= {name: self._pictures.read(book, found) for name, found in media.items()}
                yield number, row

    def _plain_rows(self) -> Iterator[tuple[int, Row]]:
        for place in range(self._start, len(self._rows)):
            cells = self._rows[place]
            number = self._first + place + 1
            if is_blank(cells):
                yield number, RowError("empty_row")
            elif not is_blank(cells[len(self.names) :]):
                yield number, RowError("wrong_number_of_columns", f"{len(cells)} cells for {len(self.names)} columns")
            elif is_header_again(self.names, cells):
                yield number, RowError("header_again")
            else:
                yield number, {name: _value(cell) for name, cell in zip(self.names, cells) if name is not None}


def _is_text(cells: list[Any], column: int) -> bool:
    """Whether a cell holds more than a formula that names a picture, or what stands for one."""
    cell = cells[column] if column < len(cells) else None
    return cell not in (None, "", "#VALUE!") and not (isinstance(cell, str) and "DISPIMG(" in cell.upper())


def _open_sheet(path: Path, wanted: str | None, notes: list[str]) -> tuple[str, list[list[Any]], int, int]:
    """(name, rows, the empty rows above and empty columns before them) of the sheet that is wanted, or has most cells."""
    try:
        import python_calamine as calamine
    except ImportError:
        raise missing_package(path, "python-calamine") from None
    try:
        with open(path, "rb") as file, calamine.CalamineWorkbook.from_filelike(file) as book:
            names = [
                item.name
                for item in book.sheets_metadata
                if item.typ == calamine.SheetTypeEnum.WorkSheet
                and (item.name == wanted or item.visible == calamine.SheetVisibleEnum.Visible)
            ]
            sheets = {name: book.get_sheet_by_name(name) for name in names}
            name = _chosen(path, {name: (item.height, item.width) for name, item in sheets.items()}, wanted, notes)
            sheet = sheets[name]
            first, left = sheet.start or (0, 0)
            rows = sheet.to_python(skip_empty_area=True)
            _fill_merged(rows, sheet.merged_cell_ranges or (), first, left)
            return name, rows, first, left
    except UserError:
        raise
    except calamine.PasswordError:
        raise UserError(f"{path} has a password; save it without one, or as CSV UTF-8") from None
    except Exception as error:  # calamine has errors of many kinds, and Rust's own panic
        raise UserError(f"{path} cannot be read as a workbook ({first_line(error)}); save the sheet as CSV UTF-8") from None


def _fill_merged(rows: list[list[Any]], ranges: Iterable[Any], first: int, left: int) -> None:
    """Give the rows of cells that are merged downwards the value of all: a category that is written once for its products."""
    for (top, column), (bottom, last) in ranges:
        place = column - left
        if column == last and top < bottom and 0 <= top - first < len(rows) and 0 <= place < len(rows[top - first]):
            for row in rows[top - first + 1 : bottom - first + 1]:
                if place < len(row) and row[place] in (None, ""):
                    row[place] = rows[top - first][place]


def _chosen(path: Path, sizes: dict[str, tuple[int, int]], wanted: str | None, notes: list[str]) -> str:
    """The sheet that is wanted, or the one with most cells: a sheet of further photos may have more rows than the products.

    sizes: the rows and columns of each.
    """
    if wanted is not None and wanted not in sizes:
        raise UserError(f"{path} has no sheet {wanted!r}; it has {', '.join(map(repr, sizes))}")
    if not sizes:
        raise UserError(f"{path} has no sheet with rows")
    name = wanted or max(sizes, key=lambda sheet: sizes[sheet][0] * sizes[sheet][1])
    others = [f"{other!r} ({height})" for other, (height, _) in sizes.items() if other != name and height]
    if others and wanted is None:
        notes.append(f"the rows of {path.name} are those of the sheet {name!r}, not {', '.join(others)}; see --sheet")
    return name


def _value(cell: Any) -> Any:
    if cell == "" or cell is None:
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return int(cell)
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


def _refuse_bomb(path: Path) -> None:
    """Raise UserError for a workbook that unpacks to more than memory should hold."""
    if path.stat().st_size * _MOST_RATIO < _MOST_UNPACKED or not zipfile.is_zipfile(path):
        return
    unpacked = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                with archive.open(item) as file:
                    while unpacked <= _MOST_UNPACKED and (block := file.read(1 << 20)):
                        unpacked += len(block)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a workbook ({first_line(error)}); save the sheet as CSV UTF-8") from None
    if unpacked > _MOST_UNPACKED:
        raise UserError(f"{path} unpacks to more than {_MOST_UNPACKED >> 30} GiB; save the sheet as CSV UTF-8")


def _refuse_far_cells(path: Path) -> None:
    """Raise UserError for a sheet of XLSX or XLSB with a cell so far away that all cells up to it would fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if item.filename.startswith("xl/worksheets/") and item.filename.endswith((".xml", ".bin")):
                    with archive.open(item) as file:
                        blocks = iter(functools.partial(file.read, 1 << 20), b"")
                        rows, columns = (binary_extent if item.filename.endswith(".bin") else _extent)(blocks)
                    if rows * columns > _MOST_CELLS:
                        raise UserError(
                            f"{path} has a sheet of {rows:,} rows and {columns:,} columns, more than {_MOST_CELLS:,} cells; "
                            "remove what stands far away from the table, or save the sheet as CSV UTF-8"
                        )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError):
        return  # calamine says what is wrong with it


def _extent(blocks: Iterator[bytes]) -> tuple[int, int]:
    """(rows, columns) up to the farthest cell with content that the XML of a sheet has."""
    rows, last_row, widest, rest, nameless = 1, 1, b"A", b"", False
    for block in blocks:
        cells = _CELL.findall(rest + block)
        rows = max([rows, *(int(row) for _, row in cells if row)])
        widest = max([widest, *(column for column, _ in cells)], key=lambda column: (len(column), column))
        nameless = nameless or any(not row for _, row in cells)  # such a cell is where its row is
        last_row = max([last_row, *map(int, _ROW.findall(rest + block))])
        rest = block[-_LONGEST_TAG:]
    width = functools.reduce(lambda number, letter: 26 * number + letter - 64, widest, 0)
    return max(rows, last_row if nameless else 0), width
