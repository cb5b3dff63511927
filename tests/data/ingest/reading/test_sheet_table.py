"""Sheets of workbooks become rows like those of a CSV file."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from data.ingest.reading import sheet_table
from data.ingest.reading.binary_sheet import binary_extent
from data.ingest.reading.options import Reading
from data.ingest.tables import open_table
from mlx_phi3v.errors import UserError
from tests.helpers.tables import column_values
from tests.helpers.workbooks import Cell, write_ods, write_xlsx

ROWS: list[list[Cell]] = [
    ["sku", "title", "price", "new"],
    ["007", "Pot, 5\" & <b>", 12.5, True],
    [8, "two\nlines", 25.0, None],
    [None, None, None, None],
    ["9", "Pan", "1.250,00 €", False],
]  # fmt: skip
VALUES = [
    {"sku": "007", "title": 'Pot, 5" & <b>', "price": 12.5, "new": True},
    {"sku": 8, "title": "two\nlines", "price": 25, "new": None},
    "empty_row",
    {"sku": "9", "title": "Pan", "price": "1.250,00 €", "new": False},
]


def test_a_sheet_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    table = open_table(write_xlsx(tmp_path / "t.xlsx", {"Sheet": ROWS}))
    assert [row for _, row in table.rows()] == VALUES
    assert [line for line, _ in table.rows()] == [2, 3, 4, 5] and table.count == 4
    assert isinstance(list(table.rows())[1][1]["sku"], int)  # type: ignore[index]  # codes have no point


def test_an_open_document_sheet_is_read(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [["sku", "title"], ["007", "Pot"], [8.0, "Pan"]]
    assert [row for _, row in open_table(write_ods(tmp_path / "t.ods", rows)).rows()] == [
        {"sku": "007", "title": "Pot"}, {"sku": 8, "title": "Pan"},
    ]  # fmt: skip


def test_a_workbook_by_any_name_is_read(tmp_path: Path) -> None:
    for name in ("t.csv", "t.xls", "t", "t.zip"):
        assert len(list(open_table(write_xlsx(tmp_path / name, {"A": ROWS})).rows())) == 4


def test_the_sheet_with_most_rows_is_taken_or_the_one_that_is_named(tmp_path: Path) -> None:
    few: list[list[Cell]] = [["name", "phone"], ["Ann", 1]]
    path = write_xlsx(tmp_path / "t.xlsx", {"Notes": few, "Products": ROWS, "Old": ROWS + ROWS}, hidden=["Old"])
    table = open_table(path)
    assert list(table.columns) == ["sku", "title", "price", "new"]
    assert "'Products'" in table.notes[0] and "'Notes' (2)" in table.notes[0]  # type: ignore[attr-defined]
    assert list(open_table(path, Reading(sheet="Notes")).columns) == ["name", "phone"]
    assert open_table(path, Reading(sheet="Old")).count == 9
    with pytest.raises(UserError, match="has no sheet 'Price'; it has 'Notes', 'Products'"):
        open_table(path, Reading(sheet="Price"))


def test_a_sheet_of_further_photos_is_not_taken_for_the_products(tmp_path: Path) -> None:
    products: list[list[Cell]] = [["id", "name", "price", "image"], [1, "Belt", 12.5, "a.jpg"]]
    photos: list[list[Cell]] = [["id", "image"], [1, "b1.jpg"], [1, "b2.jpg"]]
    table = open_table(write_xlsx(tmp_path / "t.xlsx", {"Products": products, "Images": photos}))
    assert list(table.columns) == ["id", "name", "price", "image"]


def test_cells_that_are_merged_downwards_count_in_each_row(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", {"S": [["kind", "name"], ["Bags", "Tote"], [None, "Clutch"], [None, "Cap"]]})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    merged = b'</sheetData><mergeCells count="1"><mergeCell ref="A2:A3"/></mergeCells>'
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(b"</sheetData>", merged))
    assert column_values(open_table(path), "kind") == ["Bags", "Bags", None]


def test_a_title_above_the_header_is_none_of_the_rows(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [[None], ["Pots of autumn"], [], ["", "title", "price", ""], [1, "Pot", 5], [2, "Pan", 6]]
    path = write_xlsx(tmp_path / "t.xlsx", {"A": rows})
    table = open_table(path)
    assert [(line, row) for line, row in table.rows()] == [(5, {"title": "Pot", "price": 5}), (6, {"title": "Pan", "price": 6})]
    assert next(iter(open_table(path, Reading(header_line=2)).columns)) == "Pots of autumn"


def test_a_cell_beyond_the_header_is_kept_under_the_number_of_its_column(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [["title", "price"], ["Pot", 5], ["Pan", 6], ["Cup", 7], ["Jug", 8, None, "x"]]
    found = [row for _, row in open_table(write_xlsx(tmp_path / "t.xlsx", {"A": rows})).rows()]
    assert found[-1] == {"title": "Jug", "price": 8, "column_4": "x"} and len(found) == 4


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet_table, "_MOST_UNPACKED", 1 << 20)
    path = write_xlsx(tmp_path / "t.xlsx", {"A": [["title"], ["x" * (2 << 20)]]})
    with pytest.raises(UserError, match="unpacks to more than"):
        open_table(path)


def test_a_broken_workbook_is_one_sentence(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", {"A": ROWS})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"save the sheet as CSV UTF-8|no whole zip"):
        open_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook")
    with pytest.raises(UserError, match="save the sheet as CSV UTF-8"):
        open_table(path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", {"A": ROWS})
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(UserError, match="pip install python-calamine"):
        open_table(path)


def in_sheet(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    """A workbook whose one sheet has other XML."""
    write_xlsx(path, {"Shop": [["title", "price"], ["Hat", 5]]})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    for old, new in changes:
        assert old in members[sheet]
        members[sheet] = members[sheet].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_cell_that_is_far_away_is_refused_before_it_ends_the_process(tmp_path: Path) -> None:
    """calamine holds every cell up to it: 17,000 million."""
    message = r"a sheet of 1,048,576 rows and 16,384 columns, more than .*; remove what stands far away"
    with pytest.raises(UserError, match=message):
        open_table(in_sheet(tmp_path / "t.xlsx", (b'r="B2"', b'r="XFD1048576"')))
    far = (b"</sheetData>", b'<row r="1048576"><c t="n"><v>1</v></c></row></sheetData>')
    with pytest.raises(UserError, match=message):
        open_table(in_sheet(tmp_path / "nameless.xlsx", (b'r="B2"', b'r="XFD2"'), far))


def test_a_style_that_is_far_away_is_no_cell(tmp_path: Path) -> None:
    far = b'<row r="1048576" s="1"><c r="A1048576" s="1"/><c r="XFD1048576" s="1"/></row></sheetData>'
    path = in_sheet(tmp_path / "t.xlsx", (b"</sheetData>", far))
    assert [row for _, row in open_table(path).rows()] == [{"title": "Hat", "price": 5}]


def record(kind: int, content: bytes) -> bytes:
    """A record of XLSB: type and size, seven bits in each byte."""
    head = b""
    for number in (kind, len(content)):
        while number >= 0x80:
            head += bytes([number & 0x7F | 0x80])
            number >>= 7
        head += bytes([number])
    return head + content


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_the_extent_of_a_binary_sheet_is_that_of_its_cells_with_content(step: int) -> None:
    def numbers(first: int, more: int) -> bytes:
        return first.to_bytes(4, "little") + bytes(more)

    sheet = b"".join(
        [record(129, b""), record(148, numbers(0, 12)), record(0, numbers(2, 13)), record(2, numbers(1, 8)),
         record(6, numbers(4, 300)), record(1, numbers(900, 4)), record(0, numbers(8, 13)), record(5, numbers(0, 12)),
         record(0, numbers(999_999, 13)), record(1, numbers(9, 4)), record(494, bytes(40_000)), record(130, b"")]
    )  # fmt: skip
    for size, expected in ((len(sheet), (9, 5)), (len(sheet) - 39_000, (9, 5)), (0, (0, 0)), (20, (0, 0))):
        assert binary_extent([sheet[at : min(at + step, size)] for at in range(0, size, step)]) == expected


def test_a_far_cell_of_a_binary_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.bin", b"")
        far = record(0, (1_048_575).to_bytes(4, "little") + bytes(13)) + record(5, (16_383).to_bytes(4, "little") + bytes(12))
        archive.writestr("xl/worksheets/sheet1.bin", far)
    with pytest.raises(
        UserError, match=r"a sheet of 1,048,576 rows and 16,384 columns, more than .*; remove what stands far away"
    ):
        open_table(path)
