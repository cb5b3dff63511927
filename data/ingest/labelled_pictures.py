"""Files of tools that mark things in pictures (LabelMe, VIA, CVAT), as rows of a picture and the names of what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .paths_in_row import nested
from .row import Row, RowError, Table

_VIA = "_via_img_metadata"
_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton", "tag")


def joined(names: Iterable[Any]) -> str | None:
    """The different names in their order, as one category; None where there are none."""
    return ", ".join(dict.fromkeys(str(name) for name in names if name not in (None, ""))) or None


def labelled(table: Table) -> Table:
    """The table as its pictures and their labels, where LabelMe, VIA or CVAT wrote it; any other as it is."""
    names = table.columns.keys()
    if {"shapes", "imagePath"} <= names:
        return LabelledTable(table, _label_me)
    if _VIA in names:
        return LabelledTable(table, lambda row: _via(_of_project(nested(row.get(_VIA)))))
    if {"filename", "regions", "file_attributes"} <= names:  # VIA's annotations alone
        return LabelledTable(table, lambda row: _via([row]))
    if table.kind == "xml" and {"id", "name", "width", "height"} <= names and names & {*_SHAPES} and _has_labels(table):
        return LabelledTable(table, _cvat)
    return table


def _has_labels(table: Table) -> bool:
    first = next((row for _, row in table.rows() if not isinstance(row, RowError) and row.keys() & {*_SHAPES}), {})
    return any("label" in shape for name in _SHAPES for shape in _shapes(first.get(name)))


class LabelledTable:
    """The columns image and category, and what the tool's user wrote beside; a picture without all of it is a RowError."""

    def __init__(self, table: Table, read: Callable[[Mapping[str, Any]], Iterator[dict[str, Any]]]) -> None:
        """Raises UserError where no picture has a label."""
        self.table, self._read = table, read
        self.kind = table.kind
        self.notes = getattr(table, "notes", ())
        self.path = getattr(table, "path", None) or getattr(getattr(table, "file", None), "path", None)
        self.columns: dict[str, pa.DataType] = {}
        self.count = 0
        for _, row in self.rows():
            self.count += 1
            if not isinstance(row, RowError):
                self.columns.update((name, pa.string()) for name in row)
        if not self.columns:
            raise UserError(f"no picture of {self.path} has a label; label them first, or export with annotations")

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each picture; one without a label or text is a RowError."""
        for number, row in self.table.rows():
            if isinstance(row, RowError):
                yield number, row
                continue
            for found in self._read(row):
                said = {name: value for name, value in found.items() if value not in (None, "")}
                yield number, found if len(said) > 1 else RowError("not_annotated", str(found.get("image")))


def _label_me(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    flags = nested(row.get("flags"))
    told = [name for name, is_so in flags.items() if is_so] if isinstance(flags, Mapping) else []
    path = str(row.get("imagePath") or "").replace("\\", "/")
    yield {
        "image": path.removeprefix("../"),
        "category": joined([*told, *(s.get("label") for s in _listed(row.get("shapes")))]),
    }


def _of_project(files: Any) -> list[Mapping[str, Any]]:
    return _listed(list(files.values())) if isinstance(files, Mapping) else []


def _via(entries: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        regions = nested(entry.get("regions"))
        regions = _listed(list(regions.values()) if isinstance(regions, Mapping) else regions)  # the first version numbers them
        names = (name for region in regions for name in _values(region.get("region_attributes")))
        beside = entry.get("file_attributes")
        yield {"image": entry.get("filename"), "category": joined(names)} | (
            dict(beside) if isinstance(beside, Mapping) else {}
        )


def _values(attributes: Any) -> Iterator[Any]:
    """What attributes say: texts, and of a choice of several those that are chosen."""
    for value in attributes.values() if isinstance(attributes, Mapping) else ():
        yield from (name for name, is_so in value.items() if is_so) if isinstance(value, Mapping) else (value,)


def _cvat(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    shapes = [shape for name in _SHAPES for shape in _shapes(row.get(name))]
    said = (zip(_all(shape.get("attribute_name")), _all(shape.get("attribute"))) for shape in shapes)
    beside = {str(name): text for pairs in said for name, text in pairs if name not in ("image", "category")}
    yield {"image": row.get("name"), "category": joined(shape.get("label") for shape in shapes)} | beside


def _shapes(value: Any) -> list[Mapping[str, Any]]:
    """The elements of one kind; one whose only attribute is its label is read as that text."""
    items = value if isinstance(value, list) else [value]
    return [{"label": item} if isinstance(item, str) else item for item in items if isinstance(item, (str, Mapping))]


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _listed(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list, or the one object that stands in its place."""
    read = nested(value)
    items = read if isinstance(read, list) else [read]
    return [item for item in items if isinstance(item, Mapping)]
