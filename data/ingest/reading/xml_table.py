"""XML with an element for each row: RSS and Atom feeds of shops, and any file in which one repeated element dominates.

Read by lxml without network, DTD or entities.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from ..row import Row, RowError
from .markup import local_name, xml_events
from .yml_feed import YmlCategories, is_yml

_USUAL = ("item", "entry", "product", "offer", "row", "record")
_CVAT = ("annotations", "image")  # above them are the labels of the task, which may be more
_QUICK_ROWS = 2000
_MOST_DEPTH = 50
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_MOST_ATTRIBUTES = 1000  # of an element: libxml2 looks each up among all


class XmlTable:
    """The rows of an XML file: each child of the row's element is a column, named without its namespace.

    A child that is there several times is a list, one with children an object; an attribute of the row is a column, one
    of a child is `CHILD_ATTRIBUTE`. Of a text in several languages (`xml:lang`) the first is the column, or that of no
    language in particular (`x-default`); the others are `CHILD_LANGUAGE`. `quick`: columns and count are those of the
    first rows.
    """

    kind = "xml"

    def __init__(self, path: Path, *, quick: bool = False) -> None:
        self.path = path
        self._categories: YmlCategories | None = None
        self._row_path = self._find_yml_rows() or self._find_rows(_QUICK_ROWS * 50 if quick else None)
        name = local_name(self._row_path[-1])
        self.notes = [] if name in _USUAL else [f"the rows of {path.name} are its elements {name!r}"]
        self.columns: dict[str, pa.DataType] = {}
        self.count = 0
        for _, row in itertools.islice(self.rows(), _QUICK_ROWS if quick else None):
            self.count += 1
            if isinstance(row, dict):
                self.columns.update((name, pa.string()) for name in row.keys() - self.columns.keys())
        if not self.columns:
            raise UserError(f"{path} has no rows: its elements {self._row_path[-1]!r} are empty")
        self.columns = dict(sorted(self.columns.items()))

    def _find_yml_rows(self) -> tuple[str, ...] | None:
        """The path of the offers of a YML feed, whose categories are read then; None of any other file."""
        path: list[str] = []
        for event, element in xml_events(self.path):
            if event == "end":
                path.pop()
                continue
            path.append(element.tag)
            if len(path) == 1 and not is_yml(element):
                return None
            if local_name(element.tag) == "offer":
                self._categories = YmlCategories(xml_events(self.path))
                return tuple(path)
        raise UserError(f"{self.path} is a YML feed without an offer; get it again")

    def _find_rows(self, most: int | None) -> tuple[str, ...]:
        """The path of the element that a row is: of all that are repeated under one parent, the one that holds most."""
        path: list[str] = []
        repeated: Counter[tuple[str, ...]] = Counter()  # most of one kind under one parent
        inside: Counter[tuple[str, ...]] = Counter()  # elements below, of all of that path
        children: list[Counter[str]] = [Counter()]
        for event, element in itertools.islice(xml_events(self.path), most):
            if event == "start":
                path.append(element.tag)
                if len(path) > _MOST_DEPTH:
                    raise UserError(f"{self.path} is nested more than {_MOST_DEPTH} levels deep; it is no table")
                children[-1][element.tag] += 1
                repeated[tuple(path)] = max(repeated[tuple(path)], children[-1][element.tag])
                children.append(Counter())
                for depth in range(1, len(path)):
                    inside[tuple(path[:depth])] += 1
                if element.attrib:
                    inside[tuple(path)] += len(element.attrib)
            else:
                path.pop()
                children.pop()
                _forget(element)
        if _CVAT in repeated:
            return _CVAT
        found = [key for key, count in repeated.items() if count > 1 and inside[key] and len(key) > 1]
        found = found or [key for key in repeated if local_name(key[-1]).lower() in _USUAL and inside[key]]
        if not found:
            raise UserError(f"{self.path} has no element that is repeated as the rows of a table are; save it as CSV")
        return max(found, key=lambda key: (inside[key], -len(key)))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row's element with its line."""
        wanted = list(self._row_path)
        path: list[str] = []
        for event, element in xml_events(self.path):
            if event == "start":
                path.append(element.tag)
                continue
            if path == wanted:
                line = int(element.sourceline or 0)
                yield line, self._read(element)
            path.pop()
            if path[: len(wanted)] != wanted:
                _forget(element)

    def _read(self, element: Any) -> Row:
        try:
            row = _row(element)
        except _TooWideError as error:
            return RowError("row_unreadable", str(error))
        if self._categories is not None:
            row = self._categories.filled(row)
        return row or RowError("empty_row")


class _TooWideError(Exception):
    """An element that no export has."""


def _attributes(element: Any) -> list[tuple[str, str]]:
    """(name without its namespace, value). Raises _TooWideError."""
    if len(element.attrib) > _MOST_ATTRIBUTES:
        raise _TooWideError(f"an element has {len(element.attrib):,} attributes")
    return [(local_name(name), value) for name, value in element.attrib.items()]


def _forget(element: Any) -> None:
    """Free an element that is read, and those before it."""
    element.clear(keep_tail=False)
    while element.getprevious() is not None:
        del element.getparent()[0]


def _row(element: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict(_attributes(element))
    names: dict[str, str] = {}  # tag -> column: `title` and `g:title` are two
    taken: set[str] = set()
    for child in element:
        if not isinstance(child.tag, str):
            continue
        name = names.get(child.tag)
        if name is not None and (language := child.get(_LANGUAGE)) and f"{name}_lang" in row:
            _put_translation(row, name, language, _content(child))
            continue
        if name is None:
            name = local_name(child.tag)
            if name in taken:
                name = f"{child.prefix or 'other'}_{name}"
            names[child.tag] = name
            taken.add(name)
        _put(row, name, _content(child))
        if len(child) == 0 and (child.text or "").strip():
            for attribute, value in _attributes(child):
                _put(row, f"{name}_{attribute}", value)
    text = (element.text or "").strip()
    return row | {"text": text} if text and not len(element) else row


def _put_translation(row: dict[str, Any], name: str, language: str, value: Any) -> None:
    if language == "x-default":
        row[f"{name}_{row[f'{name}_lang']}"], row[name], row[f"{name}_lang"] = row[name], value, language
    else:
        row[f"{name}_{language}"] = value


def _put(row: dict[str, Any], name: str, value: Any) -> None:
    if name not in row:
        row[name] = value
    elif isinstance(row[name], list):
        row[name].append(value)
    else:
        row[name] = [row[name], value]


def _content(element: Any) -> Any:
    """The text of a leaf, or its one attribute where it has no text; what has children is an object."""
    children = [child for child in element if isinstance(child.tag, str)]
    text = "".join(element.itertext()).strip() if not children else (element.text or "").strip()
    if children:
        languages = [child for child in children if local_name(child.tag) == "language" and child.get("id")]
        if len(languages) == len(children):  # of PrestaShop: a text in several languages, the first is the column
            return _content(languages[0])
        return _row(element)
    if text:
        return text
    values = _attributes(element)
    return values[0][1] if len(values) == 1 else dict(values) or None
