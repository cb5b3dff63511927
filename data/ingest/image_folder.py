"""Photos in folders as a table: their folder is the category."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from .picture_suffixes import PICTURE_SUFFIXES
from .row import Row

PHOTO_SUFFIXES = frozenset(PICTURE_SUFFIXES)
_PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM")


class ImageFolder:
    """Photos in folders named after their category: columns image, category, file."""

    kind = "images"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.columns: dict[str, pa.DataType] = {"image": pa.string(), "category": pa.string(), "file": pa.string()}
        self.others: Counter[str] = Counter()
        self.count = sum(1 for _ in self.paths(self.others))

    def paths(self, others: Counter[str] | None = None) -> Iterator[Path]:
        """The photos; `others` counts all other files by their suffix."""
        for parent, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                if path.suffix.lower() in PHOTO_SUFFIXES or (not path.suffix and _starts_as_photo(path)):
                    yield path
                elif others is not None:
                    others[path.suffix.lower()] += 1

    def passed_over(self) -> str:
        """A sentence on the files that are no photos, or ""."""
        if not self.others:
            return ""
        listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.others.most_common(6))
        return f"{sum(self.others.values())} files are no photos and were passed over ({listed})"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each photo, in the order of folder and file names."""
        for number, path in enumerate(self.paths(), 1):
            relative = path.relative_to(self.folder)
            category = relative.parent.as_posix()
            yield (
                number,
                {
                    "image": relative.as_posix(),
                    "category": None if category == "." else category,
                    "file": relative.as_posix(),
                },
            )


def _starts_as_photo(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_PHOTO_STARTS)
    except OSError:
        return False
