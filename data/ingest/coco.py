"""COCO files: pictures, annotations and categories in three lists, as one row for each caption or picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from mlx_phi3v.task import FieldKind

from .reading.json_file import JsonFile
from .row import Row, RowError


class CocoTable:
    """A COCO file as rows of file_name, image_id, caption and category.

    With captions a row for each of them, else one for each annotated picture with the names of all its categories. Pictures
    and categories are held in memory.
    """

    kind = "json"
    preset = "coco"
    image_column = "file_name"
    field_kinds: dict[str, FieldKind] = {}  # noqa: RUF012 (the preset names the fields)

    def __init__(self, file: JsonFile) -> None:
        self._items = file.objects
        images = {item["id"]: item for item in self._items("images") if "id" in item}
        self._files = {
            key: item.get("file_name") or item.get("coco_url") or item.get("flickr_url") for key, item in images.items()
        }
        self._names = {item.get("id"): item.get("name") for item in self._items("categories")}
        first = next(self._items("annotations"), {})
        self._captions = "caption" in first
        shown = ("caption", "category") if self._captions and self._names else ("caption",) if self._captions else ("category",)
        self.columns = {name: pa.string() for name in ("file_name", "image_id", *shown)}
        self.count = sum(1 for _ in self._items("annotations")) if self._captions else len(self._files)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each caption, or each annotated picture, with its place in the file.

        An annotation of an unknown picture is a RowError, and so is a picture without one.
        """
        yield from enumerate(self._captioned() if self._captions else self._categorised(), 1)

    def _captioned(self) -> Iterator[Row]:
        unused = dict.fromkeys(self._files)
        for item in self._items("annotations"):
            key = item.get("image_id")
            if key not in self._files:
                yield RowError("picture_unknown", str(key))
                continue
            unused.pop(key, None)
            row = {"file_name": self._files[key], "image_id": str(key), "caption": item.get("caption")}
            yield row | ({"category": self._names.get(item.get("category_id"))} if "category" in self.columns else {})
        yield from (RowError("not_annotated", f"image {key}") for key in unused)

    def _categorised(self) -> Iterator[Row]:
        found: dict[Any, list[str]] = {}
        for item in self._items("annotations"):
            name = self._names.get(item.get("category_id"))
            names = found.setdefault(item.get("image_id"), [])
            if name and name not in names:
                names.append(name)
        for key, file in self._files.items():
            if key in found:
                yield {"file_name": file, "image_id": str(key), "category": ", ".join(found[key])}
            else:
                yield RowError("not_annotated", f"image {key}")
        yield from (RowError("picture_unknown", str(key)) for key in found if key not in self._files)
