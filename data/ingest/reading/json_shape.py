"""Where the rows are in a JSON file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.errors import UserError

from ..paths_in_row import WRAPPERS
from ..row import first_line
from .json_columns import by_columns, read_columns
from .long_numbers import guarded

_MOST_FIRST_LINE = 256_000_000
_TURNS = ("messages", "conversations")
# What is one row, whatever lists are in it: a file of LabelMe and a project of VIA, see `labelled_pictures`.
_WHOLE = ({"shapes", "imagePath"}, {"_via_img_metadata"})
_PHPMYADMIN = re.compile(rb'\s*"type"\s*:\s*"header"')
_VIA_KEYS = {"filename", "regions", "file_attributes"}
# What an API puts beside the key that the row itself is under.
_AROUND = frozenset({"cursor", "row_idx", "truncated_cells", "id", "type", "links", "relationships", "meta",
                     "sys", "metadata", "createdTime", "createTime", "updateTime"})  # fmt: skip
# Lists of columns, which stand beside the rows of pandas and of the hub's viewer.
_DESCRIPTIONS = {"schema.fields.item": "data.item", "features.item": "rows.item"}


@dataclass(frozen=True)
class JsonShape:
    """How rows follow each other: one on each line, in the list at `prefix`, or as values of the object at `prefix`.

    key: where rows are an object's values, or in lists that are, the column that gets their keys. inner: a row is the
    value of this one key. by_columns: a list of each column's values. is_coco: see `coco`.
    """

    is_lines: bool = False
    prefix: str = "item"
    key: str | None = None
    inner: str | None = None
    is_coco: bool = False
    by_columns: bool = False
    note: str = ""

    def items(self, file: IO[bytes], path: Path) -> Iterator[Any]:
        """The rows of an opened file that is no JSON lines, as ijson gives them."""
        import ijson

        if self.by_columns:
            yield from by_columns(read_columns(file, path))
            return
        if self.key is not None:
            for name, value in ijson.kvitems(file, self.prefix):
                for row in value if isinstance(value, list) else [value]:
                    yield {self.key: name, **row} if isinstance(row, dict) else row
            return
        # With use_float, a number of 20 digits would end it.
        for value in ijson.items(file, self.prefix, multiple_values=True):
            yield self.unwrapped(value)

    def unwrapped(self, value: Any) -> Any:
        """A row without what is around it."""
        if self.inner and isinstance(value, dict) and isinstance(value.get(self.inner), dict):
            # What Firestore names beside the fields is the document, not the product.
            own = ("name", "fields") if self.inner == "fields" else (self.inner,)
            return {name: item for name, item in value.items() if name not in own} | value[self.inner]
        return value


def not_json(path: Path, error: BaseException) -> UserError:
    """The sentence for a file that a parser of JSON does not take."""
    return UserError(f"{path} is not valid JSON ({first_line(error)}); it may be truncated")


_BY_COLUMNS = JsonShape(by_columns=True, note="it is written by columns, as pandas does")


def find_shape(file: IO[bytes], path: Path, *, lines: bool) -> JsonShape:
    """Where the rows of an opened file are; lines: its name says that they are lines.

    Raises UserError where it holds no objects.
    """
    start = _next_sign(file)
    if start == b"[":
        return _of_list(file)
    if start != b"{":
        return JsonShape(is_lines=True)
    line = start + file.readline(_MOST_FIRST_LINE)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        first = None
    rest = next(iter(lambda: file.read(1 << 16).strip(), b""), b"")
    if isinstance(first, dict) and not (rest or lines) and next(by_columns(first), None) is not None:
        return _BY_COLUMNS
    if first is not None and (rest or lines or not _holds_objects(first)):
        return JsonShape(is_lines=True, inner=_typed_item(first))
    if first is None and rest[:1] == b"{" and line.rstrip()[-1:] in (b"}", b","):
        return JsonShape(is_lines=True)  # one object a line, of which the first is broken
    file.seek(0)
    return _inside(guarded(file, path), path)


def _next_sign(file: IO[bytes]) -> bytes:
    sign = file.read(1)
    while sign and sign in b" \t\r\n\x1e":
        sign = file.read(1)
    return sign


def _of_list(file: IO[bytes]) -> JsonShape:
    """A list of objects, of lists of these (the pages of a scrape), or of lists of which the first has the names."""
    sign = _next_sign(file)
    if sign == b"{" and _PHPMYADMIN.match(file.read(200)):
        return JsonShape(prefix="item.data.item", note="its rows are those of the tables that phpMyAdmin exported")
    if sign != b"[":
        return JsonShape()
    return JsonShape(prefix="item.item", note="its rows are in lists of lists") if _next_sign(file) == b"{" else _BY_COLUMNS


def _holds_objects(value: dict[str, Any]) -> bool:
    """Whether an object is no row but holds rows: a list of objects or an object of objects, at any depth."""
    if any(isinstance(value.get(name), list) for name in _TURNS):
        return False  # a conversation
    if len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
        return bool(set.intersection(*(set(item) for item in value.values())))  # one object for each key
    return any(
        (isinstance(item, list) and any(isinstance(entry, dict) for entry in item))
        or (isinstance(item, dict) and (_holds_objects(item) or any(isinstance(entry, dict) for entry in item.values())))
        for item in value.values()
    )


@dataclass
class _Outline:
    """What is where in a document.

    keys: of the first objects of each list. names: of the outermost object. via: those of VIA. plain: whether a list, or an
    object with the key 0, at its top holds values.
    """

    lists: Counter[str] = field(default_factory=Counter)  # objects by the path of the list they are in
    maps: Counter[str] = field(default_factory=Counter)  # objects by the path of the object they are values of
    keys: dict[str, Counter[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    via: set[str] = field(default_factory=set)
    documents: int = 0
    plain: bool = False

    def add(self, prefix: str, event: str, value: Any) -> None:
        """Take one event of ijson's."""
        if event == "start_map":
            parts = prefix.split(".")
            if not prefix:
                self.documents += 1
            elif "item" not in parts[:-1]:
                if parts[-1] == "item":
                    self.lists[prefix] += 1
                else:
                    self.maps[".".join(parts[:-1])] += 1
        elif event == "map_key":
            if not prefix:
                self.names.add(str(value))
            elif value in _VIA_KEYS:
                self.via.add(value)
            if prefix.endswith("item") and self.lists.get(prefix, 0) <= 20:
                self.keys.setdefault(prefix, Counter())[value] += 1
        elif event not in ("end_map", "end_array", "start_array") and not self.plain:
            column = prefix.removesuffix(".item") if prefix.endswith(".item") else prefix.removesuffix(".0")
            self.plain = column != prefix and "." not in column.removesuffix(".item")


def _inside(file: IO[bytes], path: Path) -> JsonShape:
    """The list of objects that dominates a document: of those that are in no other list, the longest, and those alike."""
    import ijson

    found = _Outline()
    try:
        for prefix, event, value in ijson.parse(file, multiple_values=True):
            found.add(prefix, event, value)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise not_json(path, error) from None
    lists, maps = found.lists, found.maps
    if found.documents > 1:
        return JsonShape(prefix="")
    if lists["images.item"] and lists["annotations.item"] and "image_id" in found.keys.get("annotations.item", {}):
        return JsonShape(is_coco=True)
    if any(names <= found.names for names in _WHOLE):
        return JsonShape(prefix="")
    if found.via == _VIA_KEYS and found.documents == 1 and not lists["item"] and not found.names & _VIA_KEYS:
        return JsonShape(prefix="", key="key")  # the annotations alone, by names of files, whose dots say nothing
    if found.plain and not +lists and _is_by_columns(file, path):
        return _BY_COLUMNS
    if +lists:
        prefix, count = max(_of_rows(lists).items(), key=lambda item: (item[1], -item[0].count(".")))
        if count > 1 or not maps or max(maps.values()) <= 1:
            return _list_shape(prefix, found)
    if maps and max(maps.values()) > 1:
        prefix = max(maps, key=lambda name: (maps[name], -name.count(".")))
        return JsonShape(prefix=prefix, key="key", note="its rows are the objects of an object; their keys are the column key")
    return JsonShape(prefix="")


def _is_by_columns(file: IO[bytes], path: Path) -> bool:
    file.seek(0)
    try:
        value = read_columns(file, path)
    except (ValueError, RecursionError) as error:  # ijson lets pass what json does not, such as a vertical tab
        raise not_json(path, error) from None
    return next(by_columns(value), None) is not None


def _of_rows(lists: Mapping[str, int]) -> dict[str, int]:
    described = {name for name, rows in _DESCRIPTIONS.items() if lists.get(rows)}
    return {name: count for name, count in lists.items() if count and name not in described}


def _are_alike(one: Collection[str], other: Collection[str]) -> bool:
    """Whether two kinds of object share nearly all of their keys."""
    return 5 * len(set(one) & set(other)) >= 4 * len(set(one) | set(other))


def _wrapper(keys: Mapping[str, int]) -> str | None:
    """The key that the row itself is under, of the keys of some objects and how many have each; None where there is none."""
    most = max(keys.values(), default=0)
    around = [name for name, count in keys.items() if name in WRAPPERS and count == most][:1]
    others = {name for name in keys if name not in around and name not in _AROUND and not name.startswith("_")}
    if around == ["fields"]:
        others.discard("name")  # of a document of Firestore
    return around[0] if around and not others else None


def _typed_item(first: Any) -> str | None:
    """The key of a line of DynamoDB's export to S3; None for any other object, whose paths are as they are written."""
    item = first.get("Item") if isinstance(first, dict) and len(first) == 1 else None
    typed = isinstance(item, dict) and all(isinstance(value, dict) and len(value) == 1 for value in item.values())
    return "Item" if item and typed else None


def _list_shape(prefix: str, found: _Outline) -> JsonShape:
    """The rows of the list at `prefix`, and of the lists beside it whose objects have the same keys."""
    parent = prefix.removesuffix(".item").rpartition(".")[0]
    own = found.keys.get(prefix, Counter())
    beside = [name for name in _of_rows(found.lists) if name.removesuffix(".item").rpartition(".")[0] == parent]
    alike = [name for name in beside if _are_alike(own, found.keys.get(name, Counter()))]
    if len(alike) > 1 and len(alike) == len(beside):
        names = ", ".join(name.removesuffix(".item") for name in alike[:4])
        return JsonShape(
            prefix=parent, key="key", note=f"its rows are those of the lists {names}; a list's name is the column key"
        )
    return JsonShape(prefix=prefix, inner=_wrapper(own), note=f"its rows are those of the list {prefix.removesuffix('.item')}")
