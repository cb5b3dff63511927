"""Which columns hold pictures, judged by their values: for the message where no column's name says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .paths_in_row import leaf_paths, resolve
from .photo_roots import PhotoRoots
from .picture_references import as_url, photo_references
from .picture_suffixes import PICTURE_SUFFIXES
from .row import Row, RowError

_LEAST = 0.5  # of a column's values that must look like pictures
_HOSTS = ("img", "image", "images", "cdn", "media", "photo", "photos", "static", "pics", "assets", "cloudinary", "imgix")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def picture_columns(rows: Iterable[tuple[Row, str | None]], given: Path | None = None) -> list[str]:
    """The columns, and paths into nested ones, most of whose values look like pictures; the surest first.

    rows: the values of each and the folder that its paths start from. given: the folder of --image-root.
    """
    seen, alike = Counter[str](), Counter[str]()
    for values, root in rows:
        if isinstance(values, RowError):
            continue
        roots = PhotoRoots(Path(root) if root else None, given)
        for path in leaf_paths(values):
            value = resolve(values, path)
            if value is None or value == "":
                continue
            seen[path] += 1
            alike[path] += looks_like_picture(value, roots)
    sure = {path: alike[path] / count for path, count in seen.items() if alike[path] >= _LEAST * count}
    return sorted(sure, key=lambda path: (-sure[path], -seen[path]))


def looks_like_picture(value: Any, roots: PhotoRoots) -> bool:
    """Whether a cell's value is a picture: bytes, a data URL, a URL or path with a picture's suffix, a file that exists."""
    if isinstance(value, Mapping):
        return any(looks_like_picture(item, roots) for item in photo_references(value))
    found = photo_references(value)
    return bool(found) and all(_is_one(item, roots) for item in found[:3])


def _is_one(reference: Any, roots: PhotoRoots) -> bool:
    if isinstance(reference, (bytes, bytearray)):
        return bytes(reference[:8]).startswith(_MAGIC) or bytes(reference[4:8]) == b"ftyp"
    if not isinstance(reference, str) or len(reference) > 4000:
        return isinstance(reference, str) and reference.startswith("data:image/")
    if reference.startswith("data:image/"):
        return True
    if (url := as_url(reference)) is not None:
        return _is_picture_url(url)
    if reference.lower().endswith(PICTURE_SUFFIXES):
        return True
    try:
        return "." in reference and roots.find(reference) is not None
    except (OSError, ValueError, RuntimeError):
        return False


def _is_picture_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.path.lower().endswith(PICTURE_SUFFIXES):
        return True
    names = (parts.hostname or "").split(".")
    last = parts.path.rpartition("/")[2].lower()
    return any(name.rstrip("0123456789").strip("-") in _HOSTS for name in names) and not last.endswith(
        (".html", ".htm", ".php")
    )
