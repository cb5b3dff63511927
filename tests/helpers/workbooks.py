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


def add_pictures(path: Path, pictures: Mapping[tuple[int, int], bytes], *, in_cells: bool = False) -> Path:
    """The workbook with pictures at (row, column), both from 0, of its first sheet: laid over the cells, or placed in them.

    A cell in which one is placed must have been None.
    """
    main = "http://schemas.openxmlformats.org/drawingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    listed = "".join(f'<Relationship Id="rId{k}" Target="../media/image{k}.jpeg"/>' for k in range(1, len(pictures) + 1))
    related = f'<Relationships xmlns="{package}">{listed}</Relationships>'
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts |= {f"xl/media/image{k}.jpeg": data for k, data in enumerate(pictures.values(), 1)}
    if in_cells:
        numbers = range(len(pictures))
        for k, (row, column) in enumerate(pictures, 1):
            start = f'<row r="{row + 1}">'
            cell = f'<c r="{chr(65 + column)}{row + 1}" t="e" vm="{k}"><v>#VALUE!</v></c>'
            sheet = parts["xl/worksheets/sheet1.xml"]
            parts["xl/worksheets/sheet1.xml"] = sheet.replace(start.encode(), f"{start}{cell}".encode())
        blocks = "".join(f'<bk><ext><rvb i="{k}"/></ext></bk>' for k in numbers)
        cells = "".join(f'<bk><rc t="1" v="{k}"/></bk>' for k in numbers)
        values = "".join(f'<rv s="0"><v>{k}</v><v>5</v></rv>' for k in numbers)
        rels = "".join(f'<rel r:id="rId{k + 1}"/>' for k in numbers)
        keys = '<s t="_localImage"><k n="_rvRel:LocalImageIdentifier" t="i"/><k n="CalcOrigin" t="i"/></s>'
        known = f"<futureMetadata>{blocks}</futureMetadata><valueMetadata>{cells}</valueMetadata>"
        parts["xl/metadata.xml"] = f"<metadata {_NS}>{known}</metadata>".encode()
        parts["xl/richData/rdrichvalue.xml"] = f"<rvData>{values}</rvData>".encode()
        parts["xl/richData/rdrichvaluestructure.xml"] = f"<rvStructures>{keys}</rvStructures>".encode()
        parts["xl/richData/richValueRel.xml"] = f"<richValueRels {_REL}>{rels}</richValueRels>".encode()
        parts["xl/richData/_rels/richValueRel.xml.rels"] = related.encode()
    else:
        anchors = "".join(
            f"<x:oneCellAnchor><x:from><x:col>{column}</x:col><x:row>{row}</x:row></x:from><x:pic><x:blipFill>"
            f'<a:blip {_REL} r:embed="rId{k}"/></x:blipFill></x:pic></x:oneCellAnchor>'
            for k, (row, column) in enumerate(pictures, 1)
        )
        parts["xl/drawings/drawing1.xml"] = f'<x:wsDr xmlns:x="x" xmlns:a="{main}">{anchors}</x:wsDr>'.encode()
        parts["xl/drawings/_rels/drawing1.xml.rels"] = related.encode()
        drawing = '<Relationship Id="rId1" Target="../drawings/drawing1.xml"/>'
        parts["xl/worksheets/_rels/sheet1.xml.rels"] = f'<Relationships xmlns="{package}">{drawing}</Relationships>'.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path
