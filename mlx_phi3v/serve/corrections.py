"""Corrected rows in a folder that `data.ingest` reads: `metadata.jsonl`, the photos, and `ingest.yaml` with the task."""

from __future__ import annotations

import datetime
import io
import json
import re
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ..catalogue_columns import INGEST_FILE
from ..documents import shown
from ..errors import UserError
from ..files import atomic_path, content_of, folder_in_place, write_text
from ..locks import BeingWritten
from ..photo import Photo
from ..task import NUMBERS, Field, Task, clean_text
from .models import ServedModel
from .refusals import Refusal

TABLE, PHOTOS = "metadata.jsonl", "photos"
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_LONGEST = 1000  # letters of a value
_WAIT_SECONDS = 10.0  # for another server that saves into the same folder
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic"}


class Corrections:
    """A folder of corrected rows. A photo that is corrected again has one row, the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def add(
        self, photo: Photo, model: ServedModel, fields: Mapping[str, str | float | None], answer: str | None
    ) -> dict[str, Any]:
        """Save a row; says where, and how many rows there are. May be called by several threads and processes.

        Raises Refusal for values that the task cannot hold, UserError for a photo that cannot be used or another task's folder.
        """
        task = model.loaded.task
        values = _checked(task, fields)
        _ = photo.rgb
        name = f"{PHOTOS}/{photo.sha256}{_suffix(photo)}"
        saved = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"file_name": name, **values, "_answer": (answer or "")[:_LONGEST], "_model": model.name, "_saved": saved}
        with self._lock:
            return {"file": name, "rows": self._write(row, photo, mapping_of(task)), "folder": str(self.folder)}

    def _write(self, row: dict[str, Any], photo: Photo, mapping: str) -> int:
        deadline = time.monotonic() + _WAIT_SECONDS
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(folder_in_place(self.folder))
                    return self._write_held(row, photo, mapping)
                except BeingWritten:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def _write_held(self, row: dict[str, Any], photo: Photo, mapping: str) -> int:
        there = self.folder / INGEST_FILE
        if not there.exists():
            if content_of(self.folder):  # somebody's own photos or table
                raise Refusal(409, f"{self.folder} holds other files; start the server with a new folder for --corrections")
            write_text(there, mapping)
        elif there.read_bytes() != mapping.encode():
            raise Refusal(409, f"{self.folder} holds corrections of another task; start the server with another folder")
        path = self.folder / row["file_name"]
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(photo.data)
        table = self.folder / TABLE
        lines = [line for name, line in _lines(table) if name != row["file_name"]]
        write_text(table, "".join(f"{line}\n" for line in [*lines, json.dumps(row, ensure_ascii=False)]))
        return len(lines) + 1


def _lines(table: Path) -> Iterator[tuple[Any, str]]:
    """(photo, line) of each row that is there. Raises UserError, with the line's number, for one that is none."""
    data = table.read_bytes() if table.exists() else b""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)["file_name"], line.decode()
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"line {number} of {table} is no corrected row; correct or remove it") from None


def mapping_of(task: Task) -> str:
    """What `data.ingest` needs to make a catalogue of the same task."""
    fields = {
        item.name: {"column": item.name, "kind": item.kind} | ({"currency": item.currency} if item.currency else {})
        for item in task.fields
    }
    mapping = {"image": "file_name", "fields": fields, "prompt": task.prompt, "template": task.template}
    return yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=10_000)


def _checked(task: Task, fields: Mapping[str, str | float | None]) -> dict[str, str | float | None]:
    """The values as the task has them. Raises Refusal for one that an answer could not hold."""
    unknown = set(fields) - {item.name for item in task.fields}
    if unknown:
        raise Refusal(400, f"{shown(min(unknown))} is no field of this model", "fields")
    values = {item.name: _value(item, fields.get(item.name)) for item in task.fields}
    if all(value is None for value in values.values()):
        raise Refusal(400, "no field has a value; correct at least one", "fields")
    read = task.parse(task.answer(values))
    for name, value in values.items():
        if value is not None and read[name].value != value:
            raise Refusal(400, f"{name} could not be read back from an answer; leave out the names of other fields", name)
    return values


def _value(item: Field, value: str | float | None) -> str | float | None:
    text = clean_text(str(value)) if value is not None else ""
    if not text:
        return None
    if len(text) > _LONGEST:
        raise Refusal(400, f"{item.name} has {len(text)} letters; at most {_LONGEST} are taken", item.name)
    if item.kind not in NUMBERS:
        if any(unicodedata.category(letter) == "Cc" for letter in text):
            raise Refusal(400, f"{item.name} holds control characters; type it again", item.name)
        return text
    if not _NUMBER.fullmatch(text):
        raise Refusal(400, f"{item.name} is {text[:40]!r}; write a number such as 1250.50", item.name)
    return float(text.replace(",", ""))


def _suffix(photo: Photo) -> str:
    with Image.open(io.BytesIO(photo.data)) as image:
        name = image.format or "PNG"
    return _SUFFIXES.get(name, f".{name.lower()}")
