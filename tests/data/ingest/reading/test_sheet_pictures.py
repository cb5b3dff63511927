"""Pictures inside a workbook are the values of their rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.ingest.__main__ import main
from data.ingest.reading.sheet_table import SheetTable
from mlx_phi3v.catalogue import Catalogue
from tests.helpers.misbehaving_server import photo_bytes
from tests.helpers.tables import column_values
from tests.helpers.workbooks import Cell, add_pictures, write_xlsx

ROWS: list[list[Cell]] = [["Photo", "Title", "Price"], [None, "Bag", 12.5], [None, "Hat", 9], [None, "Belt", 15]]


@pytest.mark.parametrize("in_cells", [True, False])
def test_pictures_in_and_over_cells_are_the_photos_of_their_rows(in_cells: bool, tmp_path: Path) -> None:
    path = add_pictures(
        write_xlsx(tmp_path / "t.xlsx", {"S": ROWS}), {(row, 0): photo_bytes(row) for row in (3, 1, 2)}, in_cells=in_cells
    )
    assert main([str(path), "-o", str(tmp_path / "out"), "--processes", "1", "--validation", "0"]) == 0
    rows = sorted(Catalogue(tmp_path / "out").split("train")[:], key=lambda row: str(row["id"]))
    found = [(row["title"], Path(row["images"][0]).read_bytes()) for row in rows]
    assert found == [("Bag", photo_bytes(1)), ("Hat", photo_bytes(2)), ("Belt", photo_bytes(3))]


def test_a_picture_beside_text_has_a_column_of_its_own_and_a_logo_above_the_header_none(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [["Our shop", None, None], ["Title", "Kind", "Price"], ["Bag", "Bags", 12.5], ["Hat", "Hats", 9]]
    path = write_xlsx(tmp_path / "t.xlsx", {"S": rows})
    add_pictures(path, {(0, 2): photo_bytes(0), (2, 0): photo_bytes(1), (3, 5): photo_bytes(2)})
    table = SheetTable(path)
    assert column_values(table, "picture") == [photo_bytes(1), photo_bytes(2)]
    assert any("pictures inside t.xlsx are the values of picture" in note for note in table.notes)


def test_a_formula_of_wps_office_names_its_picture(tmp_path: Path) -> None:
    import zipfile

    path = write_xlsx(
        tmp_path / "t.xlsx", {"S": [["Title", "Pic"], ["Bag", '=DISPIMG("ID_1",1)'], ["Hat", '=DISPIMG("ID_2",1)']]}
    )
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/media/image1.jpeg", photo_bytes(1))
        archive.writestr(
            "xl/cellimages.xml",
            f'<c xmlns:r="{office}"><pic><cNvPr name="ID_1"/><blip r:embed="rId1"/></pic></c>',
        )
        archive.writestr(
            "xl/_rels/cellimages.xml.rels",
            '<Relationships><Relationship Id="rId1" Target="media/image1.jpeg"/></Relationships>',
        )
    assert column_values(SheetTable(path), "Pic") == [photo_bytes(1), '=DISPIMG("ID_2",1)']


def test_damaged_parts_of_pictures_leave_the_rows_readable(tmp_path: Path) -> None:
    path = add_pictures(write_xlsx(tmp_path / "t.xlsx", {"S": ROWS}), {(1, 0): photo_bytes(1)}, in_cells=True)
    data = path.read_bytes().replace(b"<rv s=", b"<rv s9")  # stored, not packed: the zip's checksum fails
    path.write_bytes(data)
    assert column_values(SheetTable(path), "Title") == ["Bag", "Hat", "Belt"]
