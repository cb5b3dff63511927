"""Tables of web pages and Excel's XML of 2003, whatever they are called, have the rows that Excel would show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.ingest.tables import Reading, open_table
from mlx_phi3v.errors import UserError

HTML = """<html><head><meta charset="{charset}"></head><body><table><tr><td>menu</td></tr></table>
<table border=1><thead><tr><th>Title</th><th>Price</th><th>Photo</th></tr></thead>
<tr><td>Gr&ouml;ße &amp; <b>Maß</b></td><td>12,50 €</td><td><img src="a.jpg"><img src="b.jpg"></td></tr>
<tr><td>Go</td><td>15</td><td><a href="c.jpg"></a></td></tr><tr><td colspan=2>Chess</td><td>d.jpg</td></tr>
</table></body></html>"""
XML = """<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?>
<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet" xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet">
<Worksheet ss:Name="Notes"><Table><Row><Cell><Data ss:Type="String">a</Data></Cell></Row></Table></Worksheet>
<Worksheet ss:Name="Products"><Table>{rows}</Table></Worksheet></Workbook>"""


def cell(value: Any, index: int | None = None) -> str:
    kind = "Number" if isinstance(value, (int, float)) else "String"
    place = f' ss:Index="{index}"' if index else ""
    return f'<Cell{place}><Data ss:Type="{kind}">{value}</Data></Cell>'


def row(cells: str, index: int | None = None) -> str:
    return f'<Row ss:Index="{index}">{cells}</Row>' if index else f"<Row>{cells}</Row>"


ROWS = [
    "".join(map(cell, ("Title", "Price", "Image"))),
    cell("Chess &amp; go") + cell("a.jpg", 3),
    cell("Go") + cell(12.5) + cell("b.jpg"),
    cell("Map") + cell(7) + cell("c.jpg"),
]


@pytest.mark.parametrize("charset", ["utf-8", "windows-1252"])
@pytest.mark.parametrize("name", ["t.xls", "t.html", "t.csv"])
def test_the_largest_table_of_a_web_page_is_read(name: str, charset: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HTML.format(charset=charset).encode(charset))
    table = open_table(tmp_path / name)
    assert list(table.columns) == ["Title", "Price", "Photo"] and table.count == 3
    assert [values for _, values in table.rows()] == [
        {"Title": "Größe & Maß", "Price": "12,50 €", "Photo": "a.jpg, b.jpg"},
        {"Title": "Go", "Price": "15", "Photo": "c.jpg"},
        {"Title": "Chess", "Price": None, "Photo": "d.jpg"},
    ]


@pytest.mark.parametrize("charset", ["utf-8", "windows-1252"])
def test_a_page_that_says_no_encoding_is_read_by_its_bytes(charset: str, tmp_path: Path) -> None:
    text = HTML.replace('<meta charset="{charset}">', "")
    (tmp_path / "t.xls").write_bytes(text.encode(charset))
    assert next(values for _, values in open_table(tmp_path / "t.xls").rows())["Title"] == "Größe & Maß"  # type: ignore[index]


@pytest.mark.parametrize("name", ["t.xls", "t.xml", "t.xlsx"])
def test_excels_xml_has_its_cells_where_they_are(name: str, tmp_path: Path) -> None:
    rows = [row(cells, 6 if place == 3 else None) for place, cells in enumerate(ROWS)]
    (tmp_path / name).write_text(XML.format(rows="".join(rows)))
    table = open_table(tmp_path / name)
    found = list(table.rows())
    assert [number for number, _ in found] == [2, 3, 4, 5, 6]
    assert [values for _, values in found if values != "empty_row"] == [
        {"Title": "Chess & go", "Price": None, "Image": "a.jpg"},
        {"Title": "Go", "Price": 12.5, "Image": "b.jpg"},
        {"Title": "Map", "Price": 7, "Image": "c.jpg"},
    ]
    assert "'Products', not 'Notes' (1)" in table.notes[0]  # type: ignore[attr-defined]
    assert list(open_table(tmp_path / name, Reading(sheet="Notes")).columns) == ["a"]
    with pytest.raises(UserError, match="has no sheet 'Price'"):
        open_table(tmp_path / name, Reading(sheet="Price"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (row(ROWS[0]) + row(cell("x", 16384)) * 100, "more than 1,000,000"),
        (row(ROWS[0]) + "".join(row(ROWS[2], index) for index in (10**6, 10**9)), "more than 1,000,000"),
        ("<Row><Cell>", "not well-formed"),
    ],
)
def test_a_sheet_that_asks_for_more_than_memory_holds_is_one_sentence(
    rows: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.ingest.reading.markup_sheets._MOST_IN_ALL", 1_000_000)
    (tmp_path / "t.xls").write_text(XML.format(rows=rows))
    with pytest.raises(UserError, match=message):
        open_table(tmp_path / "t.xls")


def test_entities_of_a_sheet_are_refused(tmp_path: Path) -> None:
    text = XML.replace("<Workbook", '<!DOCTYPE w [<!ENTITY a "xxxx">]><Workbook', 1)
    (tmp_path / "t.xls").write_text(text.format(rows=row(ROWS[0])))
    with pytest.raises(UserError, match="declares entities"):
        open_table(tmp_path / "t.xls")
