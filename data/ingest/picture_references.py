"""The pictures that a cell names, in whatever form: bytes, paths, URLs, several in one text, objects, lists of these."""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from .paths_in_row import nested
from .picture_suffixes import PICTURE_SUFFIXES

# What holds the picture in an object, the largest first.
_KEYS = (
    *("bytes", "hi_res", "hires", "original", "full", "url_fullxfull", "xlarge", "large", "zoom", "src", "url", "secure_url"),
    *(
        "image_url",
        "imageurl",
        "originalsrc",
        "href",
        "content_url",
        "contenturl",
        "image",
        "link",
        "path",
        "file_path",
        "file",
    ),
    *("file_name", "filename", "medium", "small", "thumb", "thumbnail"),
)
# Formulas of spreadsheets, Markdown, HTML, and Airtable's `name (URL)`: what stands around a picture's address. None looks at
# a place more than a few hundred times: a cell may have a million characters.
_WRITTEN = (
    re.compile(r'=\s*(?:image|bild|hyperlink|imagen)\s*\(\s*"([^"]+)"', re.IGNORECASE),
    re.compile(r"!?\[[^\]]{0,300}\]\(\s*<?([^)\s>]+)"),
    re.compile(r"""<img\b[^<>]*?\bsrc\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE),
    re.compile(r"(?<![^,()])[^,()]+\.\w{3,5} \((https?://[^)\s]+)\)"),
)
_NEXT_URL = re.compile(r"(?<![\s,;|~])[\s,;|~]++(?=(?:https?:)?//)", re.IGNORECASE)
# Between paths with a photo's suffix; the last ones are in no file's name that is cut so by chance.
_SEPARATORS = ("|", "~", ";", "\n", ",", "、", "，", "；", "\\n", "<br>", "<br/>", "<br />", " / ", " + ", "#", "^", " ")
_BRACKETS = {("{", "}"), ("[", "]"), ("(", ")")}
_SUFFIXED = re.compile(rf"(?:{'|'.join(re.escape(suffix) for suffix in PICTURE_SUFFIXES)})(?:[?#].*)?$", re.IGNORECASE)
# How JPEG, PNG, GIF and WebP begin in base64, and bytes where pandas wrote them as text.
_ENCODED = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "b'\\x", 'b"\\x', "b'GIF", "b'RIFF")
_LEAST_BASE64 = 64  # characters
_MOST_TEXT = 1_000_000  # characters of a cell that is looked at for several pictures


def photo_references(value: Any, separator: str | None = None) -> list[Any]:
    """The pictures that one cell holds, each as bytes, a path or a URL; what is neither stays as it is.

    >>> photo_references("a.jpg, b.jpg"), photo_references("http://x/w_6,h_4/a.jpg,http://x/b.jpg")
    (['a.jpg', 'b.jpg'], ['http://x/w_6,h_4/a.jpg', 'http://x/b.jpg'])
    >>> photo_references("['a.jpg', 'b.jpg']"), photo_references([{"src": "a.jpg"}, {"large": "b.jpg", "thumb": "s.jpg"}])
    (['a.jpg', 'b.jpg'], ['a.jpg', 'b.jpg'])
    """
    return list(_references(value, separator, 0))


def _references(value: Any, separator: str | None, depth: int) -> Iterator[Any]:
    if value is None or depth > 6 or (isinstance(value, float) and value != value):
        return
    if isinstance(value, str):
        yield from _of_text(value, separator, depth)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item, separator, depth + 1)
    elif isinstance(value, Mapping):
        yield from _of_object(value, separator, depth)
    elif not (isinstance(value, (bytes, bytearray)) and not value):
        yield value


def _of_text(text: str, separator: str | None, depth: int) -> Iterator[Any]:
    text = text.strip()
    if not text:
        return
    if text.startswith(_ENCODED):
        yield from encoded_pictures(text)
        return
    if text.startswith("data:") or len(text) > _MOST_TEXT:
        yield text
        return
    if text[:1] in "[{" and (found := nested(text)) is not text:
        yield from _references(found, separator, depth + 1)
        return
    if text[0] in "=![<" or "(http" in text:
        for form in _WRITTEN:
            if form.match(text):
                yield from form.findall(text)
                return
    yield from split_pictures(text, separator)


def encoded_pictures(text: str) -> list[Any]:
    """The bytes of a picture that a cell holds as base64 without a word, or as Python prints bytes; any other text itself."""
    if text.startswith(("b'", 'b"')):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        return [found] if isinstance(found, bytes) else [text]
    if len(text) < _LEAST_BASE64:
        return [text]  # a path may begin so
    try:
        return [base64.b64decode("".join(text.split()), validate=True)]
    except (ValueError, binascii.Error):
        return [text]


def split_pictures(text: str, separator: str | None = None) -> list[str]:
    """The paths or URLs of a text with one or several.

    A URL may hold commas and semicolons of its own, a path spaces and commas: a URL ends where the next begins, and a
    path is cut only where every piece has a picture's suffix. A `separator` that is given always cuts.
    """
    text = text.strip(" \t\r\n,;|~") or text
    if separator is None and (text[:1], text[-1:]) in _BRACKETS and not text[1:-1].strip().startswith(("{", "[", "(")):
        inner = [piece.strip("\"' ") for piece in text[1:-1].split(",")]
        if all(_SUFFIXED.search(piece) for piece in inner):  # of PostgreSQL, and a list without its quotes
            return inner
    if separator is None and "//" in text:
        return [piece for piece in (part.strip(" \t\r\n,;|~") for part in _NEXT_URL.split(text)) if piece] or [text]
    for sign in (separator,) if separator else _SEPARATORS:
        pieces = [piece.strip() for piece in (text.split(sign) if sign != " " else text.split())]
        pieces = [piece for piece in pieces if piece]
        if not separator and all(piece[0] == piece[-1] and piece[0] in "\"'" for piece in pieces):
            pieces = [piece[1:-1] for piece in pieces]
        if separator or sign == "|":
            if sign in text:
                return pieces
        elif len(pieces) > 1 and all(_SUFFIXED.search(piece) for piece in pieces):
            return pieces
    return [text]


def _of_object(value: Mapping[str, Any], separator: str | None, depth: int) -> Iterator[Any]:
    named = {str(key).casefold().replace("-", "_"): item for key, item in value.items()}
    choices = [named[key] for key in _KEYS if named.get(key)]
    lists = [item for item in choices if isinstance(item, (list, tuple))]
    if lists and len(lists) == len(choices):  # one list for each size, the same pictures in each
        for place in range(max(map(len, lists))):
            sizes = (found for item in lists if place < len(item) for found in _references(item[place], separator, depth + 1))
            if (best := next(sizes, None)) is not None:
                yield best
        return
    for item in choices:
        if found := list(_references(item, separator, depth + 1)):
            yield from found
            return
    # By no known key: the photos may be the keys, as of `{URL: smaller ones}`, or the values of any keys.
    named_so = [str(key) for key in value if _is_picture_name(key)]
    yield from named_so
    if not named_so:
        for item in value.values():
            yield from (found for found in _references(item, separator, depth + 1) if _is_picture_name(found))


def _is_picture_name(value: Any) -> bool:
    """Whether a text is a URL or a path with a picture's suffix."""
    return isinstance(value, str) and len(value) < _MOST_TEXT and _SUFFIXED.search(value.strip()) is not None


def is_base_url(root: str) -> bool:
    """Whether an image root is a URL rather than a folder."""
    return root.lower().startswith(("http://", "https://"))


def below(base: str, reference: Any) -> Any:
    """A site-relative or relative path as a URL below `base`; what is a URL or bytes as it is."""
    if not isinstance(reference, str) or reference.startswith("data:") or as_url(reference):
        return reference
    path = reference.replace("\\", "/")
    if path.startswith("/") and urlsplit(base).path.strip("/"):
        return base.rstrip("/") + path  # Magento's /a/b/ab.jpg below pub/media/catalog/product
    return urljoin(base if base.endswith("/") else base + "/", path)


def as_url(reference: Any) -> str | None:
    """The URL of a reference, if it is one."""
    if not isinstance(reference, str):
        return None
    text = reference.strip()
    if text.startswith("//"):
        text = "https:" + text
    # A Windows path such as C:\photo.jpg has a one-letter "scheme"; a file: URL is a path (see `PhotoRoots`).
    return text if len(_scheme(text)) > 1 and "://" in text and _scheme(text) != "file" else None


def _scheme(text: str) -> str:
    """The scheme of a URL; "" where there is none or the text does not read as one."""
    try:
        return urlsplit(text).scheme
    except ValueError:
        return "http" if text.lower().startswith("http") else ""
