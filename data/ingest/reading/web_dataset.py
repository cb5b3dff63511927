"""WebDataset: a tar archive in which the files of one row follow each other and share a name up to the first dot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from ..row import Row, RowError
from .archives import tar_members
from .json_file import json_row

PHOTOS = ("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "ppm")
_TEXTS = ("txt", "text", "caption", "cls", "cls2", "label", "id", "index", "title", "price", "category")
_LOOKED_AT = 60
_MOST_BYTES = 256_000_000  # of one file


class WebDatasetTable:
    """The rows of a WebDataset archive, streamed. A photo's bytes are the column `image`, or that of its ending.

    The keys of a JSON object are columns, and each text file is the column of its ending.
    """

    kind = "webdataset"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, pa.DataType] = {}
        self.count = 0
        for _, row in self._read(with_photos=False):
            self.count += 1
            if isinstance(row, dict):
                for name, value in row.items():
                    self.columns.setdefault(name, pa.binary() if isinstance(value, bytes) else pa.string())
        if not self.columns:
            raise UserError(f"{path} holds no rows")
        self.columns = dict(sorted(self.columns.items()))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        return self._read(with_photos=True)

    def _read(self, *, with_photos: bool) -> Iterator[tuple[int, Row]]:
        files: dict[str, bytes] = {}
        current: str | None = None
        number = itertools.count(1)
        for item, archive in tar_members(self.path):
            key, ending = split_name(item.name)
            if key != current:
                if files and current is not None:
                    yield next(number), _row(current, files)
                files, current = {}, key
            if ending in PHOTOS and not with_photos:
                files[ending] = b""
            elif ending in PHOTOS or ending in _TEXTS or ending == "json":
                source = archive.extractfile(item)
                files[ending] = source.read(_MOST_BYTES) if source is not None else b""
        if files and current is not None:
            yield next(number), _row(current, files)


def is_web_dataset(path: Path) -> bool:
    """Whether photos of the first files of a tar archive have files of the same name beside them."""
    groups: dict[str, set[str]] = {}
    for item, _ in itertools.islice(tar_members(path), _LOOKED_AT):
        key, ending = split_name(item.name)
        groups.setdefault(key, set()).add(ending)
    photos = [endings for endings in groups.values() if endings & set(PHOTOS)]
    described = [endings for endings in photos if endings & {"json", *_TEXTS}]
    return bool(described) and 2 * len(described) >= len(photos)


def split_name(name: str) -> tuple[str, str]:
    """(the row's key, the ending in lower case) of a file in an archive."""
    path = PurePosixPath(name)
    base, _, ending = path.name.partition(".")
    return str(path.parent / base), ending.lower()


def _row(key: str, files: dict[str, bytes]) -> Row:
    row: dict[str, Any] = {"__key__": key}
    photos = [ending for ending in files if ending in PHOTOS]
    for ending in photos:
        row["image" if ending == photos[0] else ending] = files[ending]
    try:
        for ending in files.keys() - set(photos):
            if ending != "json":
                row[ending] = files[ending].decode("utf-8-sig").strip()
                continue
            value = json_row(json.loads(files[ending].decode("utf-8-sig")))
            if isinstance(value, RowError):
                return value
            row |= {name: item for name, item in value.items() if name not in row}
    except (ValueError, RecursionError) as error:
        return RowError("malformed_row", f"{key}: {error}")
    return row
