"""Photos that are named after a value of their row, as Kaggle's and H&M's are: the pattern that finds their files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .picture_suffixes import PICTURE_SUFFIXES
from .row import Row, RowError

_LEAST = 0.5  # of the rows whose file must be there
_DISTINCT = 0.9  # of the rows must have a file of their own
_LONGEST_PREFIX = 4
_FIRST = ("_1", "-1", "_01", "-01", "_0", "-0", "_a", "-a", "_front", "-front")  # of several photos
_MOST_FILES = 100_000  # of any kind, that are looked at
_MOST_DEPTH = 4
_MOST_VALUE = 80  # characters of a value that may be a file's name


def photo_pattern(rows: Iterable[tuple[Row, str | None]], given: Path | None = None) -> str | None:
    """The pattern, such as `images/{id}.jpg`, whose files at least half of the rows have; None where there is none.

    rows: the values of each and the folder that its paths start from. given: the folder of --image-root.
    """
    seen = [(values, root) for values, root in rows if not isinstance(values, RowError)]
    folder = given or next((Path(root) for _, root in seen if root is not None), None)
    if folder is None or not folder.is_dir():
        return None
    found_files = list(_photos(folder))
    # A name in other letters finds its file too, see `PhotoRoots`.
    files = {path.stem.casefold(): path for path in found_files} | {path.stem: path for path in found_files}
    if not files:
        return None
    lengths = Counter(len(stem) for stem in files if stem.isdecimal())
    length = lengths.most_common(1)[0][0] if lengths else 0
    found: dict[str, list[str]] = {}
    for values, _ in seen:
        for column in values:
            for pattern, stem in _named_by(values[column], column, files, folder, length):
                found.setdefault(pattern, []).append(stem)
    # A number of a size or a category may be a photo's name too, but not one of its own for each row.
    sure = {pattern: len(stems) for pattern, stems in found.items() if len(set(stems)) >= _DISTINCT * len(stems)}
    best = max(sure, key=lambda pattern: sure[pattern], default=None)
    return best if best is not None and sure[best] >= max(1, _LEAST * len(seen)) else None


def _photos(folder: Path) -> Iterator[Path]:
    """The photos of a folder and of those in it."""
    seen = 0
    for parent, folders, names in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _MOST_DEPTH else []
        yield from (Path(parent, name) for name in sorted(names) if name.lower().endswith(PICTURE_SUFFIXES))
        seen += len(names)
        if seen > _MOST_FILES:
            return


def _named_by(value: Any, column: str, files: Mapping[str, Path], folder: Path, length: int) -> Iterator[tuple[str, str]]:
    """The pattern by which a column's value names a photo that is there, and the photo's name.

    A number may lack the zeros before it, up to `length` digits.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or set("{}:") & set(column):
        return
    name = str(value).strip()
    if not 0 < len(name) <= _MOST_VALUE:
        return
    filled = name.zfill(length) if name.isdecimal() else name
    for stem, form, last in ((name, "", ""), (filled, f"0{length}", ""), *((name, "", sign) for sign in _FIRST)):
        if (path := files.get(stem + last) or files.get((stem + last).casefold())) is not None:
            parts = path.relative_to(folder).parent.parts
            made = [f"{{{column}:{form}.{len(part)}}}" if _is_prefix(part, stem) else part for part in parts]
            if not any(set("{}") & set(part) for part in parts):
                yield "/".join([*made, f"{{{column}{':' + form if form else ''}}}{last}{path.suffix}"]), stem
            return


def _is_prefix(part: str, stem: str) -> bool:
    """Whether a folder is named after the first characters of its photos, as in 010/0108775015.jpg."""
    return len(part) < len(stem) and len(part) <= _LONGEST_PREFIX and stem.startswith(part)
