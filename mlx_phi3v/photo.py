"""From the bytes of a photo file to the one RGB image that everything else sees."""

from __future__ import annotations

import base64
import io
import os
import stat
import warnings
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
from .no_photo import other_kind
from .ranges import MAX_PIXELS, MIN_SIDE

# Beyond this the short side of a resized crop has less than a few pixels.
MAX_ASPECT = 100

# Plain decoders only: EPS, for one, would start Ghostscript on an untrusted file.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
# The brands of a HEIC file (ISO/IEC 23008-12): what an iPhone stores. Pillow reads it with pillow-heif alone.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
# The most bytes of a photo's file: `MAX_PIXELS` of RGBA, 16 bit, uncompressed, and its metadata.
MAX_BYTES = 1_000_000_000
# Pillow describes odd files on stderr too; what makes a photo unusable becomes a PhotoError.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PhotoError(UserError):
    """A photo that cannot be used; `reason` is a short fixed word for counting.

    Reasons: picture_unreadable, not_a_picture, picture_broken, picture_too_small, picture_too_many_pixels,
    picture_too_many_bytes, picture_too_narrow, picture_unsupported_pixels, picture_is_heic.
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
        with _opened(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise PhotoError("picture_too_many_bytes", f"photo {path} has more than {MAX_BYTES:,} bytes; scale it down")
        return cls(str(path), data)

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


def _unreadable(path: Path | str, error: OSError | ValueError) -> PhotoError:
    # A ValueError is a name that no file can have: a NUL in it, or what the file system's encoding lacks.
    return PhotoError("picture_unreadable", f"photo {path} cannot be read: {getattr(error, 'strerror', None) or error}")


def open_photo(
    source: bytes | Path | str, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE, name: str = "the photo"
) -> Image.Image:
    """Decode a photo to RGB, 8 bit, as it looks on a white page.

    EXIF orientation is applied, alpha is laid over white, 16 bit is scaled to 8, of an animation the first frame is
    taken, CMYK and palettes become RGB. Embedded colour profiles are not applied, as in the published code.
    A plain RGB file comes out as `PIL.Image.open(...).convert("RGB")` gives it, bit for bit.

    `name` names the photo in errors if `source` is bytes. Sides and limits are in pixels; both are checked
    on the header, before anything is decoded.

    Raises PhotoError (a UserError) for a file that is missing, corrupt, not a photo, too small, too large or too narrow;
    whatever a decoder raises becomes one.
    """
    if not isinstance(source, bytes):
        name, source = str(source), Photo.read(source).data
    image = _open(io.BytesIO(source), name)
    _check_size(image.size, name, max_pixels, min_side)
    with _decoding(name):
        image.load()
        image = _to_rgb(_oriented(image), name)
        profile = image.info.get("icc_profile")
        if profile is not None and not isinstance(profile, bytes):
            raise ValueError("its colour profile is no profile")
        # Other metadata serves no reader of RGB, and a corrupt file's may be of types that no encoder takes.
        image.info = {"icc_profile": profile} if profile else {}
    return image


def small_photo(path: Path | str, side: int) -> Image.Image:
    """A photo as an RGB image of at most `side` pixels a side. Raises PhotoError where it cannot be used."""
    source = Photo.read(path)
    image = _open(io.BytesIO(source.data), source.name)
    _check_size(image.size, source.name, MAX_PIXELS, MIN_SIDE)
    with _decoding(source.name):
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded small at once
        small = _to_rgb(_oriented(image), source.name)
        small.info = {}
        small.thumbnail((side, side))
    return small


def thumbnail(path: Path | str, side: int) -> str | None:
    """A photo as a small JPEG (its longer side has `side` pixels) in a data URI; None where it cannot be used."""
    try:
        small, buffer = small_photo(path, side), io.BytesIO()
    except PhotoError:
        return None
    small.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a PhotoError.

    Under fuzzing Pillow's decoders raise nearly every exception, MemoryError and SystemError among them, so there is
    no list of those that a corrupt file may cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _broken(name, error) from None


def _broken(name: str, error: Exception) -> PhotoError:
    return PhotoError(
        "picture_broken", f"{name} is corrupt or truncated ({_first_line(error)}); get it again or remove its row"
    )


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
        # A pipe or a device may never end, and opening one may already wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise PhotoError(
                "picture_unreadable", f"photo {path} is not a file; give a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
            )
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with file:
        try:
            yield file
        except OSError as error:  # a disk's fault; what a decoder raises is a PhotoError by now
            raise _unreadable(path, error) from None


def is_plain_rgb(data: bytes) -> bool:
    """Whether a file that `open_photo` accepts is a clean RGB JPEG or PNG, whose bytes can be stored as they are."""
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            if image.mode != "RGB" or image.has_transparency_data or _orientation(image) in range(2, 9):
                return False
            # A 16-bit RGB PNG opens as RGB too (IHDR bit depth), and so does an animated one. A JPEG from a phone
            # may hold a second photo (MPO) after the first; readers take the first.
            return image.format != "PNG" or (data[24] == 8 and getattr(image, "n_frames", 1) == 1)
    except Exception:  # odd enough to be stored as what it decodes to
        return False


def _open(file: BinaryIO, name: str) -> Image.Image:
    Image.init()
    _prepare_heif(file, name)
    formats = [item for item in _FORMATS if item in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Our own limit reports big photos as an error; Pillow's warning would only be noise before it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        raise PhotoError("picture_too_many_pixels", f"{name} has far too many pixels; scale it down") from None
    except (OSError, ValueError, LookupError, EOFError):
        what = other_kind(file)
        is_what = f"is {what}" if what else "is not a photo that can be read"
        raise PhotoError("not_a_picture", f"{name} {is_what}; give JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF") from None
    except Exception as error:
        raise _broken(name, error) from None


def _prepare_heif(file: BinaryIO, name: str) -> None:
    """Let Pillow read a HEIC file. Raises PhotoError where pillow-heif is not installed."""
    start = file.read(12)
    file.seek(0)
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF_BRANDS or "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError:
        raise PhotoError(
            "picture_is_heic",
            f"{name} is HEIC, which needs another package: pip install pillow-heif, or export the photo as JPEG",
        ) from None
    pillow_heif.register_heif_opener()


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
    except Exception:
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
