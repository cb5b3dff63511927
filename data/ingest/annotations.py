"""What Label Studio exports (JSON, JSON-MIN, CSV), as plain columns. COCO files are read by `coco`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Protocol

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import FieldKind

from .labelled_pictures import labelled
from .looks_like_pictures import looks_like_picture
from .paths_in_row import nested
from .photo_roots import PhotoRoots
from .row import Row, RowError, Table

_LOOKED_AT = 1000  # rows, for the names and kinds of the controls
# Under what key a control's value is, by the kind of field that it fills.
_KINDS: dict[str, FieldKind] = {
    "choices": "category", "taxonomy": "category", "labels": "category", "rectanglelabels": "category",
    "polygonlabels": "category", "ellipselabels": "category", "brushlabels": "category", "keypointlabels": "category",
    "number": "number", "rating": "number", "text": "text", "datetime": "text",
}  # fmt: skip
_ABOUT_ANNOTATION = frozenset(
    {"id", "inner_id", "annotation_id", "annotator", "annotators", "annotator_id", "created_at", "updated_at", "lead_time",
     "project", "source", "file_upload", "drafts", "predictions", "total_annotations", "cancelled_annotations",
     "total_predictions", "comment_count", "unresolved_comment_count", "last_comment_updated_at", "updated_by", "meta"}
)  # fmt: skip
_LISTS = ("annotations", "completions")  # the second one of older versions


class AnnotationTable(Table, Protocol):
    """A table that knows its preset, its fields and its photos, where a user names none."""

    preset: str
    field_kinds: Mapping[str, FieldKind]
    image_column: str | None


def annotated(table: Table, *, quick: bool = False) -> Table:
    """The table as the columns of its annotations, where Label Studio, LabelMe, VIA or CVAT wrote it; any other as it is.

    `quick`: columns are those of the first rows.
    """
    if isinstance(table, LabelStudioTable):
        return table
    if "annotation_id" in table.columns or _holds_tasks(table):
        return LabelStudioTable(table, quick=quick)
    return labelled(table)


def _holds_tasks(table: Table) -> bool:
    if "data" not in table.columns or not table.columns.keys() & set(_LISTS):
        return False
    first = next((row for _, row in itertools.islice(table.rows(), _LOOKED_AT) if not isinstance(row, RowError)), {})
    return isinstance(nested(first.get("data")), Mapping) and any(isinstance(nested(first.get(name)), list) for name in _LISTS)


class LabelStudioTable:
    """Label Studio's tasks: the task's data, and of its annotation a column for each control of the labelling interface."""

    preset = "label_studio"

    def __init__(self, table: Table, *, quick: bool = False) -> None:
        """Raises UserError where no task has an annotation."""
        self.table = table
        self.kind = table.kind
        self.count = table.count
        self.notes = getattr(table, "notes", ())
        self.field_kinds: dict[str, FieldKind] = {}
        self.is_whole = "annotation_id" not in table.columns  # tasks, not yet one column for each control
        columns: dict[str, pa.DataType] = {} if self.is_whole else dict(table.columns)
        first: list[dict[str, Any]] = []
        for _, row in itertools.islice(self.rows(), None if self.is_whole and not quick else _LOOKED_AT):
            if not isinstance(row, RowError):
                columns.update((name, pa.string()) for name in row if name not in columns)
                first += [row] if len(first) < _LOOKED_AT else []
        if not first:
            raise UserError("no task of the Label Studio export has an annotation; annotate first, or export with annotations")
        self.columns = columns
        self.image_column = next((name for name in columns if any(_is_picture(row.get(name)) for row in first)), None)
        if not self.is_whole:
            beside = (*_ABOUT_ANNOTATION, self.image_column)
            self.field_kinds = {name: self.field_kinds.get(name, "text") for name in columns if name not in beside}

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each task with the values of its first annotation that was not cancelled; one without is a RowError."""
        for number, row in self.table.rows():
            if isinstance(row, RowError):
                yield number, row
            else:
                yield number, self._task(row) if self.is_whole else {name: self._plain(name, row[name]) for name in row}

    def _task(self, row: Mapping[str, Any]) -> Row:
        data = nested(row.get("data"))
        annotations = next((listed for name in _LISTS if isinstance(listed := nested(row.get(name)), list)), [])
        usable = [
            item for item in annotations if isinstance(item, Mapping) and item.get("result") and not item.get("was_cancelled")
        ]
        usable = [item for item in usable if isinstance(item["result"], list)]
        if not isinstance(data, Mapping) or not usable:
            return RowError("not_annotated")
        chosen = next((item for item in usable if item.get("ground_truth")), usable[0])
        found: dict[str, list[Any]] = {}
        for result in chosen["result"]:
            if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping):
                name = str(result.get("from_name"))
                found.setdefault(name, []).extend(self._values(name, result["value"]))
        values = {name: list(dict.fromkeys(items)) for name, items in found.items() if items}
        single = {name: items[0] if len(items) == 1 else items for name, items in values.items()}
        return {str(key): value for key, value in data.items()} | single | {"annotation_id": chosen.get("id")}

    def _plain(self, name: str, value: Any) -> Any:
        """A cell of JSON-MIN or CSV: `{"choices": [...]}` and lists of such regions as what was chosen."""
        read = nested(value)
        regions = read if isinstance(read, list) else [read]
        if not regions or not all(isinstance(item, Mapping) and _KINDS.keys() & item.keys() for item in regions):
            return value
        items = list(dict.fromkeys(itertools.chain.from_iterable(self._values(name, item) for item in regions)))
        return items[0] if len(items) == 1 else items

    def _values(self, name: str, value: Mapping[str, Any]) -> list[Any]:
        """What a control's value says: choices, texts, a number; a path of a taxonomy as `Clothing > Shirts`."""
        for key, kind in _KINDS.items():
            if key in value:
                self.field_kinds.setdefault(name, kind)
                listed = value[key] if isinstance(value[key], list) else [value[key]]
                plain = (item for item in listed if not isinstance(item, Mapping))
                return [" > ".join(map(str, item)) if isinstance(item, list) else _number(item) for item in plain]
        return []


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _is_picture(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    with contextlib.suppress(ValueError, OSError, RuntimeError):
        return value.startswith("/data/") or looks_like_picture(value, PhotoRoots(None))
    return False
