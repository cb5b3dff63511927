"""Small workbooks as spreadsheets write them: XLSX and ODS."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

_NS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_REL = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

Cell = str | int | float | bool | None


def write_xlsx(path: Path, sheets: Mapping[str, Sequence[Sequence[Cell]]], hidden: Sequence[str] = ()) -> Path:
    """A workbook with these sheets, in this order."""
    listed = related = ""
    for k, name in enumerate(sheets, 1):
        state = 'state="hidden"' if name in hidden else ""
        listed += f'<sheet name="{escape(name)}" sheetId="{k}" r:id="rId{k}" {state}/>'
        related += f'<Relationship Id="rId{k}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{k}.xml"/>'
    package = "http://schemas.openxmlformats.org/package/2006"
    related = f'<Relationships xmlns="{package}/relationships">{related}</Relationships>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"/>')
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{_OFFICE}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr("xl/workbook.xml", f"<workbook {_NS} {_REL}><sheets>{listed}</sheets></workbook>")
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{related}</Relationships>'
        )
        for k, rows in enumerate(sheets.values(), 1):
            body = "".join(f'<row r="{r}">{"".join(_cells(row, r))}</row>' for r, row in enumerate(rows, 1))
            archive.writestr(f"xl/worksheets/sheet{k}.xml", f"<worksheet {_NS}><sheetData>{body}</sheetData></worksheet>")
    return path


def _cells(row: Sequence[Cell], number: int) -> list[str]:
    made = []
    for place, value in enumerate(row):
        at = f"{chr(65 + place)}{number}"
        if isinstance(value, bool):
            made.append(f'<c r="{at}" t="b"><v>{int(value)}</v></c>')
        elif isinstance(value, (int, float)):
            made.append(f'<c r="{at}"><v>{value}</v></c>')
        elif value is not None:
            made.append(f'<c r="{at}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>')
    return made


def write_ods(path: Path, rows: Sequence[Sequence[Cell]]) -> Path:
    """An OpenDocument sheet."""
    office = "urn:oasis:names:tc:opendocument:xmlns"
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="float" office:value="{value}"/>'
            if isinstance(value, (int, float))
            else f'<table:table-cell office:value-type="string"><text:p>{escape(value or "")}</text:p></table:table-cell>'
            for value in row
        )
        + "</table:table-row>"
        for row in rows
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}:office:1.0" xmlns:table="{office}:table:1.0" '
            f'xmlns:text="{office}:text:1.0"><office:body><office:spreadsheet><table:table table:name="Tabelle1">{cells}'
            "</table:table></office:spreadsheet></office:body></office:document-content>",
        )
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    return path
