"""Where the rows are in a JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlx_phi3v.errors import UserError

from ..row import first_line
from .long_numbers import guarded

_MOST_FIRST_LINE = 256_000_000
_TURNS = ("messages", "conversations")


@dataclass(frozen=True)
class JsonShape:
    """How rows follow each other: one on each line, in the list at `prefix`, or as values of the object at `prefix`.

    key: where rows are an object's values, the column that gets their keys. inner: a row is the value of this one key.
    """

    is_lines: bool = False
    prefix: str = "item"
    key: str | None = None
    inner: str | None = None
    is_coco: bool = False
    note: str = ""

    def items(self, file: IO[bytes]) -> Iterator[Any]:
        """The rows of a file that is no JSON lines, as ijson gives them."""
        import ijson

        if self.key is not None:
            for name, value in ijson.kvitems(file, self.prefix):
                yield {self.key: name, **value} if isinstance(value, dict) else value
            return
        # With use_float, a number of 20 digits would end it.
        for value in ijson.items(file, self.prefix, multiple_values=True):
            yield value[self.inner] if self.inner and isinstance(value, dict) and self.inner in value else value


def find_shape(file: IO[bytes], path: Path, *, lines: bool) -> JsonShape:
    """Where the rows of an opened file are; lines: its name says that they are lines.

    Raises UserError where it holds no objects.
    """
    start = file.read(1)
    while start and start in b" \t\r\n\x1e":
        start = file.read(1)
    if start != b"{":
        return JsonShape(is_lines=start != b"[")
    line = start + file.readline(_MOST_FIRST_LINE)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        first = None
    rest = next(iter(lambda: file.read(1 << 16).strip(), b""), b"")
    if first is not None and (rest or lines or not _holds_objects(first)):
        return JsonShape(is_lines=True)
    if first is None and rest[:1] == b"{" and line.rstrip()[-1:] in (b"}", b","):
        return JsonShape(is_lines=True)  # one object a line, of which the first is broken
    file.seek(0)
    return _inside(guarded(file, path), path)


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


def _inside(file: IO[bytes], path: Path) -> JsonShape:
    """The list of objects that dominates a document: of those that are in no other list, the longest."""
    import ijson

    lists: Counter[str] = Counter()  # objects by the path of the list they are in
    maps: Counter[str] = Counter()  # objects by the path of the object they are values of
    documents = 0
    keys: dict[str, Counter[str]] = {}
    try:
        for prefix, event, value in ijson.parse(file, multiple_values=True):
            if event == "start_map":
                parts = prefix.split(".")
                if not prefix:
                    documents += 1
                elif "item" not in parts[:-1]:
                    if parts[-1] == "item":
                        lists[prefix] += 1
                    else:
                        maps[".".join(parts[:-1])] += 1
            elif event == "map_key" and prefix.endswith("item") and lists.get(prefix, 0) <= 20:
                keys.setdefault(prefix, Counter())[value] += 1
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({first_line(error)}); it may be truncated") from None
    if documents > 1:
        return JsonShape(prefix="")
    if lists["images.item"] and lists["annotations.item"] and "image_id" in keys.get("annotations.item", {}):
        return JsonShape(is_coco=True)
    if lists:
        prefix, count = max(lists.items(), key=lambda item: (item[1], -item[0].count(".")))
        if count > 1 or not maps or max(maps.values()) <= 1:
            own = keys.get(prefix, Counter())
            inner = next(iter(own)) if len(own) == 1 and next(iter(own)) in ("node", "item", "product", "_source") else None
            return JsonShape(prefix=prefix, inner=inner, note=f"its rows are those of the list {prefix.removesuffix('.item')}")
    if maps and max(maps.values()) > 1:
        prefix = max(maps, key=lambda name: (maps[name], -name.count(".")))
        return JsonShape(prefix=prefix, key="key", note="its rows are the objects of an object; their keys are the column key")
    return JsonShape(prefix="")
