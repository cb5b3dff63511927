"""Every kind of picture file comes out as the RGB image that a person would see, or is refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.ingest.photos import PhotoLimits, PhotoUnusableError, clean_photo
from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import PhotoError, is_plain_rgb, open_photo, photo_size, thumbnail


def pixels(width: int = 20, height: int = 12, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_a_plain_rgb_file_is_what_pillow_gives_bit_for_bit(kind: str) -> None:
    data = encode(Image.fromarray(pixels(50, 40)), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(open_photo(data)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    values = pixels()
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(values, 1),
    }[orientation]
    data = encode(Image.fromarray(values), "PNG", exif=exif)
    assert np.array_equal(np.asarray(open_photo(data)), upright)
    assert is_plain_rgb(data) is (orientation == 1)
    (tmp_path / "photo.png").write_bytes(data)
    assert photo_size(tmp_path / "photo.png") == open_photo(data).size


def test_alpha_is_put_over_white() -> None:
    values = pixels(channels=4)
    values[0, 0, 3], values[0, 1, 3] = 0, 255
    alpha = values[..., 3:].astype(float) / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    found = np.asarray(open_photo(encode(Image.fromarray(values))))
    assert np.abs(found - expected).max() <= 1
    assert tuple(found[0, 0]) == (255, 255, 255)
    assert np.array_equal(found[0, 1], values[0, 1, :3])


def test_a_palette_with_a_transparent_colour_is_put_over_white() -> None:
    image = Image.fromarray(np.tile([[0, 1, 2, 3]], (8, 3)).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    found = np.asarray(open_photo(encode(image, "PNG", transparency=2)))
    assert [tuple(found[0, k].tolist()) for k in range(4)] == [(10, 20, 30), (200, 0, 0), (255, 255, 255), (0, 0, 200)]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
    red = np.asarray(open_photo(encode(image, "TIFF")))
    assert tuple(red[8, 8]) == (255, 0, 0)
    jpeg = np.asarray(open_photo(encode(image, "JPEG", quality=95)))[8, 8].astype(int)
    assert jpeg[0] > 250 and jpeg[1] < 5 and jpeg[2] < 5


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    found = np.asarray(open_photo(encode(Image.fromarray(values))))
    assert np.array_equal(found[..., 0], np.round(values / 257).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 1])


def test_sixteen_bit_rgb_keeps_its_high_byte_and_is_encoded_again() -> None:
    rows = b"".join(b"\0" + struct.pack(">H", 0x8040) * 3 * 16 for _ in range(16))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert set(np.unique(np.asarray(open_photo(data)))) == {0x80}
    assert not is_plain_rgb(data)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    data = encode(first, kind, save_all=True, append_images=[second], duration=50)
    found = np.asarray(open_photo(data))[8, 8].astype(int)
    assert found[0] > 190 and found[2] < 10
    stored = clean_photo(data, PhotoLimits())
    assert getattr(Image.open(io.BytesIO(stored.data)), "n_frames", 1) == 1


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is huge."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(Image.fromarray(pixels(200, 200)), "JPEG")[:9000], "picture_broken"),
        (encode(Image.fromarray(pixels(200, 200)))[:60_000], "picture_broken"),
        (b"", "not_a_picture"),
        (b"<html>nothing here</html>", "not_a_picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_a_picture"),
        (encode(Image.new("RGB", (7, 300))), "picture_too_small"),
        (encode(Image.new("RGB", (8, 801))), "picture_too_narrow"),
        (bomb(10_000, 10_000), "picture_too_many_pixels"),
        (bomb(60_000, 60_000), "picture_too_many_pixels"),
        (encode(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF"), "picture_unsupported_pixels"),
    ],
)
def test_an_unusable_photo_is_rejected_with_its_reason(data: bytes, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be noise in front of the one clear sentence
        with pytest.raises(PhotoError) as error:
            open_photo(data, name="row 7")
    assert error.value.reason == reason
    assert "row 7" in str(error.value)
    with pytest.raises(PhotoUnusableError) as refused:
        clean_photo(data, PhotoLimits())
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\xff\x0a" + bytes(50), "a JPEG XL photo"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(3) + b"\x14ftypqt  " + bytes(50), "a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"no photo", "not a photo that can be read"),
    ],
)
def test_what_stands_in_place_of_a_photo_is_named(data: bytes, what: str) -> None:
    with pytest.raises(PhotoError, match=f"row 7 is {what}"):
        open_photo(data, name="row 7")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jpg"):
        open_photo(tmp_path / "nothing.jpg")


def test_clean_bytes_are_stored_as_they_are_and_others_encoded_again() -> None:
    clean = encode(Image.fromarray(pixels(40, 30)), "JPEG")
    assert clean_photo(clean, PhotoLimits()).data == clean
    grey = encode(Image.fromarray(pixels(40, 30)).convert("L"), "JPEG")
    stored = clean_photo(grey, PhotoLimits())
    assert stored.changed and stored.suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.data))), np.asarray(open_photo(grey)))


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16")
KINDS = ("PNG", "TIFF", "JPEG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000")


@settings(max_examples=120)
@given(st.sampled_from(MODES), st.sampled_from(KINDS), st.integers(8, 70), st.integers(8, 70), st.integers(0, 9))
def test_any_mode_and_size_is_stored_as_the_rgb_that_is_seen(mode: str, kind: str, width: int, height: int, seed: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(pixels(width, height, seed=seed)).convert(mode)
    try:
        data = encode(image, kind)
    except (OSError, ValueError, KeyError):
        return  # this format has no such mode
    seen = open_photo(data)
    assert seen.mode == "RGB" and seen.size == (width, height)
    stored = clean_photo(data, PhotoLimits())
    again = Image.open(io.BytesIO(stored.data))
    assert again.mode == "RGB" and again.format in ("JPEG", "PNG")
    assert np.array_equal(np.asarray(again), np.asarray(seen))


@settings(max_examples=60)
@given(st.sampled_from(("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")), st.integers(0, 10_000), st.integers(1, 255))
def test_a_corrupt_file_is_decoded_or_refused_and_never_crashes(kind: str, place: int, flip: int) -> None:
    data = bytearray(encode(Image.fromarray(pixels(40, 30)), kind))
    data[place % len(data)] ^= flip
    with contextlib.suppress(PhotoError):
        assert open_photo(bytes(data)).mode == "RGB"


ANY_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error, RuntimeError),
    *(OverflowError, MemoryError, AttributeError, AssertionError, SystemError, RecursionError, ZeroDivisionError),
)


@pytest.mark.parametrize("error", ANY_ERRORS)
@pytest.mark.parametrize("step", ["load", "getexif", "convert"])
def test_whatever_a_decoder_raises_is_a_reason_to_reject_the_photo(
    error: type[Exception], step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("from a decoder")

    data = encode(Image.fromarray(pixels()), "PNG")
    (tmp_path / "photo.png").write_bytes(data)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile." + step, fail)
    if step == "getexif":  # metadata only
        assert open_photo(data).size == (20, 12)
        return
    with pytest.raises(PhotoError) as caught:
        open_photo(data)
    assert caught.value.reason == "picture_broken" and "\n" not in str(caught.value)
    assert thumbnail(tmp_path / "photo.png", 8) is None
    with pytest.raises(PhotoUnusableError):
        clean_photo(data, PhotoLimits())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_while_decoding_is_no_broken_photo(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stop)
    with pytest.raises(error):
        open_photo(encode(Image.fromarray(pixels()), "PNG"))


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA"])
def test_other_formats_are_never_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(Image.fromarray(pixels()), kind))
    assert thumbnail(path, 8) is None
    for opener in (open_photo, photo_size):
        with pytest.raises(PhotoError) as caught:
            opener(path)
        assert caught.value.reason == "not_a_picture"


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_a_name_that_no_file_can_have_is_an_unreadable_photo(name: str) -> None:
    for opener in (open_photo, photo_size):
        with pytest.raises(PhotoError) as caught:
            opener(name)
        assert caught.value.reason == "picture_unreadable"


def test_a_device_a_pipe_and_a_folder_are_no_photos(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path):
        for opener in (open_photo, photo_size):
            with pytest.raises(PhotoError) as caught:
                opener(path)
            assert caught.value.reason == "picture_unreadable"


def test_a_file_of_too_many_bytes_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_phi3v.photo.MAX_BYTES", 99)
    (tmp_path / "photo.png").write_bytes(bytes(100))
    with pytest.raises(PhotoError) as caught:
        open_photo(tmp_path / "photo.png")
    assert caught.value.reason == "picture_too_many_bytes"


@pytest.mark.parametrize(
    ("info", "kept"), [({"dpi": "y", "exif": 7}, {}), ({"icc_profile": b"p", "gamma": {}}, {"icc_profile": b"p"})]
)
def test_metadata_of_wrong_types_does_not_reach_the_stored_photo(
    info: dict[Any, Any], kept: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(pixels()[:, :, 0])
    image.info = info
    monkeypatch.setattr("mlx_phi3v.photo._open", lambda *_: image)
    assert open_photo(b"").info == kept


def test_a_colour_profile_that_is_none_is_a_broken_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(pixels()[:, :, 0])
    image.info = {"icc_profile": 5}
    monkeypatch.setattr("mlx_phi3v.photo._open", lambda *_: image)
    with pytest.raises(PhotoError) as caught:
        open_photo(b"")
    assert caught.value.reason == "picture_broken"


_SEEDS = {kind: encode(Image.fromarray(pixels(40, 30)), kind) for kind in ("PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "PPM")}
_SEEDS |= {kind: encode(Image.fromarray(pixels(40, 30)), kind) for kind in ("AVIF", "JPEG2000") if kind in Image.SAVE}


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(_SEEDS)), random=st.randoms(use_true_random=False))
def test_fuzzed_photos_are_photos_or_rejected(kind: str, random: Random) -> None:
    data = bytearray(_SEEDS[kind])
    for _ in range(random.randint(1, 8)):
        # Headers are where the interesting bytes are.
        at = random.randrange(min(len(data), 400)) if random.random() < 0.7 else random.randrange(len(data))
        data[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    if random.random() < 0.2:
        del data[random.randrange(len(data)) :]
    with contextlib.suppress(PhotoUnusableError):
        clean_photo(bytes(data), PhotoLimits())
