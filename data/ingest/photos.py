"""One photo of a row: from any form that a source gives to clean bytes."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mlx_phi3v.photo import PhotoError, is_plain_rgb, open_photo
from mlx_phi3v.ranges import MAX_PIXELS, MIN_SIDE

from .photo_roots import PhotoRoots
from .picture_references import as_url


class PhotoUnusableError(Exception):
    """A photo that cannot be used; `reason` is a short fixed word, `detail` explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class PhotoLimits:
    """What a photo may be: pixels, the shortest side in pixels and the size of its file in bytes."""

    max_pixels: int = MAX_PIXELS
    min_side: int = MIN_SIDE
    max_bytes: int = 50_000_000


@dataclass(frozen=True)
class CleanPhoto:
    """A photo as stored: RGB, upright, 8 bit. `image` is what it decodes to; `changed`: not the source's bytes."""

    data: bytes
    suffix: str
    image: Image.Image
    changed: bool


def reference_bytes(reference: Any, roots: PhotoRoots, fetched: Callable[[str], bytes], limits: PhotoLimits) -> bytes:
    """The bytes of a reference; those of a URL come from `fetched`. Raises PhotoUnusableError."""
    url = as_url(reference)
    if url is not None:
        return fetched(url)
    if isinstance(reference, (bytes, bytearray)):
        return _within(bytes(reference), "its bytes", limits)
    if not isinstance(reference, str):
        raise PhotoUnusableError("picture_unknown_form", type(reference).__name__)
    if reference.startswith("data:"):
        return _within(_data_uri(reference), "its data URI", limits)
    return _file_bytes(reference.strip(), roots, limits)


def _within(data: bytes, name: str, limits: PhotoLimits) -> bytes:
    if len(data) > limits.max_bytes:
        raise PhotoUnusableError("picture_too_many_bytes", f"{name}: {len(data)} bytes")
    return data


def _data_uri(text: str) -> bytes:
    head, mark, body = text.partition(",")
    try:
        if not mark or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error):
        raise PhotoUnusableError("picture_unknown_form", text[:40]) from None


def _file_bytes(name: str, roots: PhotoRoots, limits: PhotoLimits) -> bytes:
    if not roots.any:
        # A data set from the hub must not choose files of this machine.
        raise PhotoUnusableError("picture_local_path", name)
    try:
        path = roots.find(name)
        if path is None:
            raise PhotoUnusableError("picture_missing", name)
        with open(path, "rb") as file:
            data = file.read(limits.max_bytes + 1)  # a system's file may say 0 bytes and hold any number
        if len(data) > limits.max_bytes:
            raise PhotoUnusableError("picture_too_many_bytes", name)
        return data
    except (OSError, ValueError, RuntimeError) as error:
        raise PhotoUnusableError("picture_unreadable", f"{name}: {error}") from None


def clean_photo(data: bytes, limits: PhotoLimits) -> CleanPhoto:
    """Decode a photo, keep its bytes if they are clean, else encode what was decoded as PNG.

    Raises PhotoUnusableError where it cannot be used.
    """
    try:
        image = open_photo(data, max_pixels=limits.max_pixels, min_side=limits.min_side)
    except PhotoError as error:
        raise PhotoUnusableError(error.reason, str(error)) from None
    clean = is_plain_rgb(data)
    if clean:
        suffix = ".jpg" if data.startswith(b"\xff\xd8") else ".png"
    else:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        data, suffix = buffer.getvalue(), ".png"
    return CleanPhoto(data, suffix, image, not clean)
