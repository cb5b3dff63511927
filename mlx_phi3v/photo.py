"""From the bytes of a photo file to the one RGB image that everything else sees."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from .errors import UserError
from .files import sha256_bytes

# Pillow's own bound of a photo that is not a decompression bomb: 1/4 GiB of RGB.
MAX_PIXELS = 89_478_485
MIN_SIDE = 8
# Beyond this the short side of a resized crop has less than a few pixels.
MAX_ASPECT = 100

# Plain decoders only: EPS, for one, would start Ghostscript on an untrusted file.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112
# What Pillow's decoders raise on corrupt files, as its own fuzzers list them.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


class PhotoError(UserError):
    """A photo that cannot be used; `reason` is a short fixed word for counting.

    Reasons: picture_unreadable, not_a_picture, picture_broken, picture_too_small, picture_too_many_pixels,
    picture_too_narrow, picture_unsupported_pixels.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Photo:
    """A photo file, read once; hashed and decoded at most once, when first asked for. May be shared by threads.

    name: its path, for errors. data: the file's bytes.
    """

    name: str
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path | str) -> Photo:
        """Read a photo file. Raises PhotoError where it cannot be read."""
        try:
            return cls(str(path), Path(path).read_bytes())
        except OSError as error:
            raise _unreadable(path, error) from None

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the file's bytes."""
        return sha256_bytes(self.data)

    @cached_property
    def rgb(self) -> Image.Image:
        """The photo as RGB, 8 bit; see `open_photo`. Raises PhotoError where it cannot be used."""
        return open_photo(self.data, name=self.name)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of `rgb` in pixels. Raises PhotoError where it cannot be used."""
        return self.rgb.size


def _unreadable(path: Path | str, error: OSError) -> PhotoError:
    return PhotoError("picture_unreadable", f"photo {path} cannot be read: {error.strerror}")


def open_photo(
    source: bytes | Path | str, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, name: str = "the photo"
) -> Image.Image:
    """Decode a photo to RGB, 8 bit, as it looks on a white page.

    EXIF orientation is applied, alpha is laid over white, 16 bit is scaled to 8, of an animation the first frame is
    taken, CMYK and palettes become RGB. Embedded colour profiles are not applied, as in the published code.
    A plain RGB file comes out as `PIL.Image.open(...).convert("RGB")` gives it, bit for bit.

    `name` names the photo in errors if `source` is bytes. Sides and limits are in pixels; both are checked
    on the header, before anything is decoded.

    Raises PhotoError (a UserError) for a file that is missing, corrupt, not a photo, too small, too large or too narrow.
    """
    if not isinstance(source, bytes):
        name, source = str(source), Photo.read(source).data
    image = _open(io.BytesIO(source), name)
    _check_size(image.size, name, max_pixels, min_side)
    try:
        image.load()
        image = _oriented(image)
        return _to_rgb(image, name)
    except _DECODE_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise PhotoError(
            "picture_broken", f"{name} is corrupt or truncated ({_first_line(error)}); get it again or remove its row"
        ) from None


def photo_size(path: Path | str) -> tuple[int, int]:
    """(width, height) in pixels that `open_photo` gives. Reads the file's header, and decodes nothing.

    Raises PhotoError where the file cannot be read or has no usable header.
    """
    with _opened(path) as file:
        image = _open(file, str(path))
        _check_size(image.size, str(path), MAX_PIXELS, MIN_SIDE)
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


@contextmanager
def _opened(path: Path | str) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; only opening it may raise this error)
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        yield file


def is_plain_rgb(data: bytes) -> bool:
    """Whether a file that `open_photo` accepts is a clean RGB JPEG or PNG, whose bytes can be stored as they are."""
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return False
    with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
        if image.mode != "RGB" or image.has_transparency_data or _orientation(image) in range(2, 9):
            return False
        # A 16-bit RGB PNG opens as RGB too (IHDR bit depth), and so does an animated one. A JPEG from a phone
        # may hold a second photo (MPO) after the first; readers take the first.
        return image.format != "PNG" or (data[24] == 8 and getattr(image, "n_frames", 1) == 1)


def _open(file: BinaryIO, name: str) -> Image.Image:
    Image.init()
    formats = [item for item in _FORMATS if item in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Our own limit reports big photos as an error; Pillow's warning would only be noise before it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        raise PhotoError("picture_too_many_pixels", f"{name} has far too many pixels; scale it down") from None
    except _DECODE_ERRORS:
        raise PhotoError(
            "not_a_picture", f"{name} is not a photo that can be read; give JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
        ) from None


def _check_size(size: tuple[int, int], name: str, max_pixels: int, min_side: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PhotoError(
            "picture_too_many_pixels",
            f"{name} is {width}x{height}, more than {max_pixels} pixels; scale it down or raise the limit",
        )
    if min(size) < min_side:
        raise PhotoError("picture_too_small", f"{name} is {width}x{height}; a photo needs at least {min_side} pixels a side")
    if max(size) > MAX_ASPECT * min(size):
        raise PhotoError("picture_too_narrow", f"{name} is {width}x{height}, longer than {MAX_ASPECT} times its width; crop it")


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except _DECODE_ERRORS:
        return None  # corrupt metadata is no reason to reject the photo


def _oriented(image: Image.Image) -> Image.Image:
    if _orientation(image) not in range(2, 9):
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "F":
        raise PhotoError("picture_unsupported_pixels", f"{name} holds floating-point pixels; save it as PNG or JPEG")
    if image.mode.startswith("I"):
        image = _grey16_to_8(image, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey16_to_8(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bit to 8: 0..65535 to 0..255, rounded (PNG specification, sample depth scaling). [H, W]"""
    values = np.asarray(image, dtype=np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PhotoError("picture_unsupported_pixels", f"{name} holds pixels of more than 16 bit; save it as PNG or JPEG")
    scaled = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return scaled


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
