"""Files whose names differ from what a table says in case, Unicode form or suffix alone."""

from __future__ import annotations

import functools
import os
from pathlib import Path, PurePosixPath

from mlx_phi3v.text import in_form

from .picture_suffixes import PICTURE_SUFFIXES

_MOST_ENTRIES = 1_000_000  # of a folder that is listed


def nearest(root: Path, name: str) -> Path | None:
    """The one photo below `root` that `name` can mean, or None where there is none or a choice.

    Each folder and the file may differ in case and Unicode form (a Mac writes letters and accents apart), the file also in
    its suffix, or have one where the name has none. Raises OSError or ValueError for what cannot be a path.
    """
    parts = PurePosixPath(name.replace("\\", "/").lstrip("/")).parts
    if not parts or ".." in parts:
        return None
    place = root
    for part in parts[:-1]:
        found = place / part if (place / part).is_dir() else _alike(place, part)
        if found is None:
            return None
        place = found
    path = _alike(place, parts[-1]) or _alike_but_for_suffix(place, parts[-1])
    return path if path is not None and path.is_file() else None


def _alike(folder: Path, name: str) -> Path | None:
    names = _listed(folder)[0].get(_folded(name), ())
    return folder / names[0] if len(names) == 1 else None


def _alike_but_for_suffix(folder: Path, name: str) -> Path | None:
    stem, suffix = os.path.splitext(name)
    if suffix and suffix.lower() not in PICTURE_SUFFIXES:
        stem = name  # the dot is part of the name
    names = _listed(folder)[1].get(_folded(stem), ())
    return folder / names[0] if len(names) == 1 else None


def _folded(name: str) -> str:
    return in_form("NFC", in_form("NFC", name).casefold())


def _listed(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    try:
        return _names(str(folder), folder.stat().st_mtime_ns)
    except OSError:  # no folder, or none that may be read
        return {}, {}


@functools.lru_cache(maxsize=32)
def _names(folder: str, _changed: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(folded name -> entries, folded name without a photo's suffix -> photos) of a folder, read once."""
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        for entry, _ in zip(entries, range(_MOST_ENTRIES)):
            names.setdefault(_folded(entry.name), []).append(entry.name)
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in PICTURE_SUFFIXES:
                stems.setdefault(_folded(stem), []).append(entry.name)
    return names, stems
