"""The pictures that an XLSX workbook holds inside: placed in cells, laid over them, or named by the formula of WPS Office."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError

_MOST_XML = 256 << 20  # bytes of a part that is held; the sheets themselves are read in pieces
_IN_CELL = re.compile(rb"<(?:\w+:)?c\s([^>]*)>")
_PLACE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
_VALUE = re.compile(rb'\bvm="(\d{1,9})"')
_FORMULA = re.compile(r'=?(?:_xlfn\.)?DISPIMG\(\s*"([^"]{1,80})"', re.IGNORECASE)
_RELATED = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_LONGEST_TAG = 500  # bytes


class SheetPictures:
    """The pictures of one sheet. `places`: (row, column), both from 0 -> the files in the workbook that are there."""

    def __init__(self, path: Path, sheet: str) -> None:
        self.path = path
        self.places: dict[tuple[int, int], list[str]] = {}
        self._by_name: dict[str, str] = {}  # of the formula
        if not zipfile.is_zipfile(path):
            return
        try:
            with zipfile.ZipFile(path) as book:
                if any(name.startswith("xl/media/") for name in book.namelist()):
                    self._find(_Parts(book), sheet)
        except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            self.places.clear()
            return  # what is not as it should be has no pictures that can be found; the rows say so

    def _find(self, parts: _Parts, sheet: str) -> None:
        self._by_name = {name: media for name, media in parts.pictures("xl/cellimages.xml")}
        sheets = {item.get("name"): item.get(f"{_RELATED}id") for item in parts.elements("xl/workbook.xml", "sheet")}
        own = parts.related("xl/workbook.xml").get(sheets.get(sheet) or "", "")
        for drawing in parts.related(own).values():
            if "/drawings/" in drawing:
                for place, media in parts.laid_over(drawing):
                    self.places.setdefault(place, []).append(media)
        values = parts.rich_values()
        for place, number in parts.in_cells(own) if values else ():
            if number in values:
                self.places.setdefault(place, []).append(values[number])

    def named(self, cell: Any) -> str | None:
        """The picture that the formula in a cell names."""
        match = _FORMULA.match(cell) if self._by_name and isinstance(cell, str) else None
        return self._by_name.get(match[1]) if match else None

    def read(self, book: zipfile.ZipFile, media: list[str]) -> Any:
        """The bytes of a picture, of several a list. Raises UserError."""
        try:
            found = [book.read(name) for name in media]
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError) as error:
            raise UserError(f"{self.path}: the picture {media[0]} inside cannot be read ({error}); save it again") from None
        return found if len(found) > 1 else found[0]


class _Parts:
    """The parts of a workbook and what they refer to."""

    def __init__(self, book: zipfile.ZipFile) -> None:
        self.book = book
        self.names = set(book.namelist())

    def elements(self, part: str, *names: str) -> list[Any]:
        """The elements of a part that are called so, in any namespace; none where there is no such part."""
        if part not in self.names or self.book.getinfo(part).file_size > _MOST_XML:
            return []
        import lxml.etree

        parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            root = lxml.etree.fromstring(self.book.read(part), parser)
        except lxml.etree.XMLSyntaxError:
            return []
        return [item for item in root.iter() if isinstance(item.tag, str) and item.tag.rpartition("}")[2] in names]

    def related(self, part: str) -> dict[str, str]:
        """Id -> part, of what a part refers to."""
        folder, name = posixpath.split(part)
        found = self.elements(f"{folder}/_rels/{name}.rels", "Relationship")
        return {
            str(item.get("Id")): posixpath.normpath(posixpath.join("/" + folder, str(item.get("Target")))).lstrip("/")
            for item in found
        }

    def laid_over(self, drawing: str) -> Iterator[tuple[tuple[int, int], str]]:
        """(the cell at its upper left corner, picture) of each picture of a drawing."""
        related = self.related(drawing)
        for anchor in self.elements(drawing, "twoCellAnchor", "oneCellAnchor"):
            at = {item.tag.rpartition("}")[2]: item.text for item in anchor[0]} if len(anchor) else {}
            media = next((related.get(str(item.get(f"{_RELATED}embed"))) for item in anchor.iter("{*}blip")), None)
            if media in self.names and "row" in at and "col" in at:
                yield (int(at["row"]), int(at["col"])), media

    def pictures(self, part: str) -> Iterator[tuple[str, str]]:
        """(name, picture) of each picture of a part."""
        related = self.related(part)
        for item in self.elements(part, "pic"):
            name = next((str(found.get("name")) for found in item.iter("{*}cNvPr")), None)
            media = next((related.get(str(found.get(f"{_RELATED}embed"))) for found in item.iter("{*}blip")), None)
            if name and media in self.names:
                yield name, media

    def rich_values(self) -> dict[int, str]:
        """The number that a cell has (`vm`) -> its picture."""
        related = self.related("xl/richData/richValueRel.xml")
        listed = [related.get(str(item.get(f"{_RELATED}id"))) for item in self.elements("xl/richData/richValueRel.xml", "rel")]
        keys = [
            [key.get("n") for key in item if isinstance(key.tag, str)]
            for item in self.elements("xl/richData/rdrichvaluestructure.xml", "s")
        ]
        media: list[str | None] = []
        for value in self.elements("xl/richData/rdrichvalue.xml", "rv"):
            named = dict(zip(keys[int(value.get("s", 0))], (item.text for item in value)))
            place = named.get("_rvRel:LocalImageIdentifier")
            media.append(listed[int(place)] if place is not None else None)
        blocks = [int(item.get("i")) for item in self.elements("xl/metadata.xml", "rvb")]
        listed_cells = self.elements("xl/metadata.xml", "valueMetadata")
        cells = [item for above in listed_cells for item in above.iter("{*}rc")]
        found = {number: media[blocks[int(item.get("v"))]] for number, item in enumerate(cells, 1)}
        return {number: name for number, name in found.items() if name in self.names and name is not None}

    def in_cells(self, sheet: str) -> Iterator[tuple[tuple[int, int], int]]:
        """(cell, the number of its rich value) of a sheet."""
        if sheet not in self.names:
            return
        rest = b""
        with self.book.open(sheet) as file:
            while block := file.read(1 << 20):
                block = rest + block
                cut = block.rfind(b"<")
                rest = block[cut:] if len(block) - cut < _LONGEST_TAG else b""
                for match in _IN_CELL.finditer(block[:cut] if rest else block):
                    place, value = _PLACE.search(match[1]), _VALUE.search(match[1])
                    if place and value:
                        yield (int(place[2]) - 1, _column(place[1])), int(value[1])


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number - 1
