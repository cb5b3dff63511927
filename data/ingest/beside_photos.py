"""Photos with a file of the same name for each: a caption (.txt), boxes of YOLO (.txt), or objects of Pascal VOC (.xml)."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.cli import read_yaml
from mlx_phi3v.errors import UserError

from .image_folder import ImageFolder
from .labelled_pictures import joined
from .reading.encodings import read_mark
from .reading.markup import local_name, xml_events
from .row import Row, RowError

_SUFFIXES = (".txt", ".caption", ".xml")
_LOOKED_AT = 50  # photos
_LEAST = 0.5  # of them that must have a file that can be read
_MOST_BYTES = 1_000_000
_BOXES = re.compile(r"\s*\d++(?:\s+-?(?:\d++\.?\d*+|\.\d++)(?:e[+-]?\d++)?){4,}\s*", re.IGNORECASE)
_MOST_DIGITS = 9  # of a class's number
_CLASS = re.compile(rf"[0-9]{{1,{_MOST_DIGITS}}}")
_CLASS_FILES = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")


def folder_of_photos(folder: Path, top: Path) -> ImageFolder:
    """The photos of a folder with what files beside them say, where most have one; else with their folder as category.

    `top`: the folder that was given, where YOLO names its classes.
    """
    plain = ImageFolder(folder)
    if top == folder and not plain.others.keys() & set(_SUFFIXES):
        return plain
    files = _files_by_stem(top)
    beside = PhotosWithFiles(folder, files, top) if files else None
    return beside if beside is not None and beside.fits() else plain


def _files_by_stem(top: Path) -> dict[str, list[Path]]:
    """The files that may say something about a photo, by their names without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(top.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found


class PhotosWithFiles(ImageFolder):
    """Photos with what their files say as category or caption. A photo without such a file is a RowError."""

    def __init__(self, folder: Path, files: Mapping[str, list[Path]], top: Path) -> None:
        """files: by their names without suffix; top: where YOLO names its classes."""
        super().__init__(folder)
        self._files, self._top = files, top
        self.used: set[str] = set()

    def fits(self) -> bool:
        """Whether most of the first photos have a file that says something."""
        first = [self._said(path) for path in itertools.islice(self.paths(), _LOOKED_AT)]
        found = [said for said in first if isinstance(said, dict)]
        if any("caption" in said for said in found):
            self.columns = self.columns | {"caption": pa.string()}
        return len(found) >= _LEAST * max(1, len(first))

    def passed_over(self) -> str:
        """As of the photos alone, without the files that are read."""
        for suffix in self.used:
            self.others.pop(suffix, None)
        return super().passed_over()

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each photo, in the order of folder and file names."""
        for number, row in super().rows():
            assert not isinstance(row, RowError)
            said = self._said(self.folder / row["file"])
            said = RowError("not_annotated", row["file"]) if said is None else said
            yield number, said if isinstance(said, RowError) else row | said

    @functools.cached_property
    def _classes(self) -> Mapping[int, str]:
        """YOLO's, by number."""
        return _classes(self._top)

    def _said(self, photo: Path) -> dict[str, str | None] | RowError | None:
        """What the file of a photo says; None where there is none, or one of another kind."""
        own = min(self._files.get(photo.stem, []), key=lambda path: _steps_apart(path, photo), default=None)
        if own is None or _steps_apart(own, photo) > 1 or own.stat().st_size > _MOST_BYTES:
            return None
        said = _objects(own) if own.suffix.lower() == ".xml" else self._text(own, beside=own.parent == photo.parent)
        if said is not None:
            self.used.add(own.suffix.lower())
        return said

    def _text(self, path: Path, *, beside: bool) -> dict[str, str | None] | RowError | None:
        text = _decoded(path)
        if text is None:
            return RowError("text_not_utf8", path.name)
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and all(map(_BOXES.fullmatch, lines)):
            numbers = (line.split()[0] for line in lines)
            names = [self._classes.get(int(number)) if len(number) <= _MOST_DIGITS else None for number in numbers]
            return {"category": joined(names)} if any(names) else None
        return {"caption": " ".join(text.split())} if lines and beside else None


def _steps_apart(path: Path, photo: Path) -> int:
    """How many folders on the way differ: none beside it, one for `train/labels/` and `train/images/`."""
    own, other = path.parts[:-1], photo.parts[:-1]
    return sum(a != b for a, b in zip(own, other)) + 2 * (len(own) != len(other))


def _objects(path: Path) -> dict[str, str | None] | None:
    """The names of the objects in a file of Pascal VOC."""
    names: list[str] = []
    try:
        for event, element in xml_events(path):
            parent = element.getparent()
            if event == "start" and parent is None and local_name(element.tag) != "annotation":
                return None
            if event == "end" and local_name(element.tag) == "name" and parent is not None and parent.tag == "object":
                names.append((element.text or "").strip())
    except UserError:
        return None
    return {"category": joined(names)} if names else None


def _classes(top: Path) -> Mapping[int, str]:
    """The names of YOLO's classes, of `data.yaml` or a list of names in the folder."""
    for path in sorted(top.glob("*.y*ml")):
        names: Any = read_yaml(path, str(path)).get("names") if path.is_file() else None  # a pipe might never end
        if isinstance(names, list):
            return dict(enumerate(map(str, names)))
        if isinstance(names, Mapping):
            return {int(str(key)): str(value) for key, value in names.items() if _CLASS.fullmatch(str(key))}
    for path in (top / name for name in _CLASS_FILES):
        if path.is_file() and path.stat().st_size <= _MOST_BYTES:
            if (text := _decoded(path)) is None:
                raise UserError(f"{path}, which names the classes, is not UTF-8; save it as UTF-8")
            return dict(enumerate(text.split("\n")))
    return {}


def _decoded(path: Path) -> str | None:
    """The text of a file; None where it is neither UTF-8 nor has the mark of another encoding."""
    data = path.read_bytes()
    try:  # a caption is too short to tell other encodings by its letters
        return data.decode(read_mark(data[:256]) or "utf-8-sig")
    except UnicodeDecodeError:
        return None
