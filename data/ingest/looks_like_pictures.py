"""Which columns hold pictures, judged by their values: for the message where no column's name says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .paths_in_row import column_of, leaf_paths, resolve
from .photo_roots import PhotoRoots
from .picture_references import as_url, photo_references
from .picture_suffixes import PICTURE_SUFFIXES
from .row import Row, RowError

_LEAST = 0.5  # of a column's values that must look like pictures
_SURE = 0.9  # of those of a column that is taken unasked
_HOSTS = ("img", "image", "images", "cdn", "media", "photo", "photos", "static", "pics", "assets", "cloudinary", "imgix")
_NUMBER = re.compile(r"\d+")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


# Pictures that are not the product's, and smaller copies of one that may stand in another column.
_OTHERS = re.compile(r"logo|icon|flag|avatar|banner|swatch|seller|user|author|brand|vendor", re.IGNORECASE)
_NAMES = re.compile(
    r"im(age|agen|ages|g|magin)|photo|pic|foto|bild|zdj|afbeeld|gambar|фото|картин|изображ|图|圖|画像", re.IGNORECASE
)
_SMALLER = re.compile(r"thumb|small|mini|tiny|preview|low|hover|back", re.IGNORECASE)


class Shares(NamedTuple):
    """The share of a column's values that look like pictures, and of those that are by their suffix, bytes or file."""

    alike: float
    sure: float


def picture_columns(rows: Iterable[tuple[Row, str | None]], given: Path | None = None) -> dict[str, Shares]:
    """The columns, and paths into nested ones, most of whose values look like pictures; the surest first.

    rows: the values of each and the folder that its paths start from. given: the folder of --image-root.
    """
    seen, alike, sure = Counter[str](), Counter[str](), Counter[str]()
    for values, root in rows:
        if isinstance(values, RowError):
            continue
        roots = PhotoRoots(Path(root) if root else None, given)
        for path in leaf_paths(values):
            value = resolve(values, path)
            if value is None or value == "":
                continue
            seen[path] += 1
            if looks_like_picture(value, roots):
                alike[path] += 1
                # A host that sounds like one of pictures says little, unless the column's name does too.
                sure[path] += bool(_NAMES.search(path)) or looks_like_picture(value, roots, hosts=False)
    found = {path: Shares(alike[path] / n, sure[path] / n) for path, n in seen.items() if alike[path] >= _LEAST * n}
    return {path: found[path] for path in sorted(found, key=lambda path: (-found[path].alike, -seen[path]))}


def sure_columns(shares: Mapping[str, Shares], columns: Collection[str]) -> list[str]:
    """Of `picture_columns` the one to take, or the one series such as IMAGE1, IMAGE2; none where there is a choice.

    >>> all_of = Shares(1.0, 1.0)
    >>> sure_columns({"Foto1": all_of, "Foto2": Shares(0.95, 0.95), "brand_logo": all_of}, ["Foto1", "Foto2", "brand_logo"])
    ['Foto1', 'Foto2']
    >>> sure_columns({"front": all_of, "side": all_of}, ["front", "side"]), sure_columns({"a_thumb": all_of, "a": all_of}, [])
    ([], ['a'])
    """
    series: dict[str, list[str]] = {}
    for path in shares:
        column = column_of(path, columns) or path
        name = column if re.search(r"\.\d+(\.|$)", path) else path  # all of a list's pictures, not the first alone
        listed = series.setdefault(_NUMBER.sub("#", name), [])
        if shares[path].sure >= _SURE and name not in listed:
            listed.append(name)
    found = [key for key in series if not _OTHERS.search(key)]
    found = [key for key in found if not _SMALLER.search(key)] or found if len(found) > 1 else found
    names = series[found[0]] if len(found) == 1 else []
    return sorted(names, key=lambda name: [int(number) for number in _NUMBER.findall(name)])


def looks_like_picture(value: Any, roots: PhotoRoots, *, hosts: bool = True) -> bool:
    """Whether a cell's value is a picture: bytes, a data URL, a URL or path with a picture's suffix, a file that exists.

    `hosts`: or a URL whose host sounds like one of pictures.
    """
    found = photo_references(value)
    if isinstance(value, Mapping):
        return any(_is_one(item, roots, hosts) for item in found)
    return bool(found) and all(_is_one(item, roots, hosts) for item in found[:3])


def _is_one(reference: Any, roots: PhotoRoots, hosts: bool) -> bool:
    if isinstance(reference, (bytes, bytearray)):
        return bytes(reference[:8]).startswith(_MAGIC) or bytes(reference[4:8]) == b"ftyp"
    if not isinstance(reference, str) or len(reference) > 4000:
        return isinstance(reference, str) and reference.startswith("data:image/")
    if reference.startswith("data:image/"):
        return True
    if (url := as_url(reference)) is not None:
        return _is_picture_url(url, hosts)
    if reference.lower().endswith(PICTURE_SUFFIXES):
        return True
    try:
        return "." in reference and roots.find(reference) is not None
    except (OSError, ValueError, RuntimeError):
        return False


def _is_picture_url(url: str, hosts: bool) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.path.lower().endswith(PICTURE_SUFFIXES) or not hosts:
        return parts.path.lower().endswith(PICTURE_SUFFIXES)
    names = (parts.hostname or "").split(".")
    last = parts.path.rpartition("/")[2].lower()
    return any(name.rstrip("0123456789").strip("-") in _HOSTS for name in names) and not last.endswith(
        (".html", ".htm", ".php")
    )
