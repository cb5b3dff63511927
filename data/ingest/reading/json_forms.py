"""JSON exports whose rows are not objects as they stand: Label Studio and COCO."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import IO, Any

from ..row import Row, RowError

LABEL_STUDIO = "it is a Label Studio export: columns are the task's data and the names of its labels"
COCO = "it is a COCO file: one row for each annotation, with the columns of its image and its category's name"


def is_label_studio(row: Any) -> bool:
    """Whether a row is a task of Label Studio with its annotations."""
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("data"), Mapping)
        and isinstance(row.get("annotations", row.get("completions")), list)
    )


def label_studio_row(task: Mapping[str, Any]) -> Row:
    """A task as a row: its data, and each label by its name, from the first annotation that was not cancelled."""
    made = [item for item in task.get("annotations", task.get("completions")) or [] if isinstance(item, Mapping)]
    kept = next((item for item in made if not item.get("was_cancelled")), None)
    if kept is None:
        return RowError("no_annotation", f"task {task.get('id')}")
    found: dict[str, list[Any]] = {}
    for result in kept.get("result") or []:
        if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping) and result.get("from_name"):
            found.setdefault(str(result["from_name"]), []).extend(_labels(result))
    labels = {name: _only(values) for name, values in found.items()}
    return {"task_id": task.get("id"), **task["data"], **labels}


def _labels(result: Mapping[str, Any]) -> list[Any]:
    value: Mapping[str, Any] = result["value"]
    content = value.get(str(result.get("type")), value.get("text"))
    if result.get("type") == "textarea":
        content = value.get("text")
    if content is None:
        return []
    if isinstance(content, list):
        return [" / ".join(map(str, item)) if isinstance(item, list) else item for item in content]
    return [content]


def _only(values: list[Any]) -> Any:
    kept = list({json.dumps(value, default=str): value for value in values}.values())
    return kept[0] if len(kept) == 1 else kept or None


class CocoRows:
    """The annotations of a COCO file with their images. The images are held in memory, the annotations are not."""

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        self._open = open_file
        self._images = {str(image.get("id")): image for image in self._items("images.item")}
        self._categories = {str(item.get("id")): item.get("name") for item in self._items("categories.item")}

    def _items(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        import ijson

        with self._open() as file:
            yield from (item for item in ijson.items(file, prefix) if isinstance(item, Mapping))

    def rows(self) -> Iterator[Row]:
        """A row for each annotation; an image without one is a RowError at the end."""
        unused = dict.fromkeys(self._images)
        for annotation in self._items("annotations.item"):
            key = str(annotation.get("image_id"))
            image = self._images.get(key)
            if image is None:
                yield RowError("image_id_unknown", key)
                continue
            unused.pop(key, None)
            row = {**{name: value for name, value in image.items() if name != "id"}, **annotation}
            row["annotation_id"] = row.pop("id", None)
            if "category_id" in annotation:
                row["category"] = self._categories.get(str(annotation["category_id"]))
            yield {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}
        for key in unused:
            yield RowError("no_annotation", f"image {key}")
