"""Photos become the published processor's crops: grid, padding, global image, token count and order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_phi3v.config import IMAGE_MEAN, IMAGE_STD, VisionArgs
from mlx_phi3v.crops import (
    crop_grid,
    hd_transform,
    image_token_count,
    image_token_index,
    normalise,
    pad_crops,
    process_image,
    resize_bicubic,
)
from mlx_phi3v.errors import UserError
from tests.helpers.catalogue import random_picture

SIDE = 336


def interpolated(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    result: np.ndarray = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=size, mode="bicubic")[0].numpy()
    return result


@settings(max_examples=30)
@given(size=st.tuples(*[st.integers(1, 500)] * 2), to=st.tuples(*[st.integers(1, 400)] * 2), seed=st.integers(0, 99))
def test_bicubic_is_that_of_torch(size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)
    ours = resize_bicubic(values, *to)
    assert ours.dtype == np.float32
    # A source position of some hundreds rounds at 3e-5 in fp32, and torch rounds it in another way.
    np.testing.assert_allclose(ours, interpolated(values, to), atol=5e-4, rtol=0)


@settings(max_examples=12)
@given(h=st.integers(1, 4), w=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_global_image_has_the_bits_of_torch(h: int, w: int, seed: int) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(seed).standard_normal((3, h * SIDE, w * SIDE)).astype(np.float32)
    ours, expected = resize_bicubic(values, SIDE, SIDE), interpolated(values, (SIDE, SIDE))
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # kernels with fused multiply-add, as recorded
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=0)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), num_crops=st.integers(1, 16))
def test_the_grid_is_the_largest_that_fits(width: int, height: int, num_crops: int) -> None:
    width, height = max(width, height), min(width, height)
    rows, columns, new_height, new_width = crop_grid(width, height, num_crops)
    ratio = width / height
    assert new_width == columns * SIDE
    assert columns * math.ceil(columns / ratio) <= num_crops < (columns + 1) * math.ceil((columns + 1) / ratio)
    assert rows * columns <= num_crops
    assert (rows - 1) * SIDE < new_height <= rows * SIDE
    assert abs(new_height - new_width / ratio) < 1 or new_height == 1


@settings(max_examples=25)
@given(width=st.integers(8, 900), height=st.integers(8, 900), num_crops=st.integers(1, 16))
def test_crops_are_the_tiles_of_the_padded_photo(width: int, height: int, num_crops: int) -> None:
    image = random_picture(width, height, seed=width)
    canvas = hd_transform(image, num_crops)
    processed = process_image(image, num_crops)
    h, w = processed.grid
    assert canvas.shape == (*processed.image_size, 3) == (h * SIDE, w * SIDE, 3)
    assert processed.pixel_values.shape == (1 + h * w, 3, SIDE, SIDE) and processed.pixel_values.dtype == np.float32
    assert h * w <= num_crops
    pixels = (canvas.transpose(2, 0, 1) / 255 - np.reshape(IMAGE_MEAN, (3, 1, 1))) / np.reshape(IMAGE_STD, (3, 1, 1))
    for k in range(h * w):
        row, column = divmod(k, w)
        piece = pixels[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        np.testing.assert_allclose(processed.pixel_values[1 + k], piece, atol=1e-5)


def test_the_padding_is_white_and_half_above() -> None:
    canvas = hd_transform(Image.new("RGB", (400, 101), "black"), 4)  # scaled to 4 x 1 crops: 1344 x 339 would need 2 rows
    rows = np.flatnonzero((canvas == 0).all(axis=(1, 2)))
    top, bottom = rows[0], len(canvas) - 1 - rows[-1]
    assert (canvas[:top] == 255).all() and (canvas[len(canvas) - bottom :] == 255).all()
    assert len(rows) == int(canvas.shape[1] / (400 / 101)) and top == (len(canvas) - len(rows)) // 2


@settings(max_examples=15)
@given(width=st.integers(8, 400), height=st.integers(8, 400), num_crops=st.integers(1, 16))
def test_a_portrait_is_a_turned_landscape(width: int, height: int, num_crops: int) -> None:
    width, height = max(width, height + 1), min(width, height)
    image = random_picture(width, height, seed=height)
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    np.testing.assert_array_equal(hd_transform(turned, num_crops), hd_transform(image, num_crops).transpose(1, 0, 2))
    assert process_image(turned, num_crops).grid == process_image(image, num_crops).grid[::-1]


@pytest.mark.parametrize("size", [(3000, 8), (8, 3000), (2000, 1), (1, 1), (337, 336)])
@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_extreme_shapes_are_processed(size: tuple[int, int], num_crops: int) -> None:
    processed = process_image(Image.new("RGB", size, "red"), num_crops)
    h, w = processed.grid
    assert 1 <= h * w <= num_crops and np.isfinite(processed.pixel_values).all()
    assert (w >= h) if size[0] >= size[1] else (h >= w)


def test_grey_and_alpha_photos_are_read_as_rgb() -> None:
    grey = process_image(Image.new("L", (50, 50), 128), 1)
    np.testing.assert_array_equal(grey.pixel_values, process_image(Image.new("RGB", (50, 50), (128,) * 3), 1).pixel_values)


@pytest.mark.parametrize("num_crops", [0, -1])
def test_no_crops_are_refused(num_crops: int) -> None:
    with pytest.raises(UserError, match="num_crops"):
        process_image(Image.new("RGB", (50, 50)), num_crops)


def test_every_8_bit_value_is_normalised_as_the_arithmetic_says() -> None:
    values = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    expected = (values.astype(np.float64) / 255 - IMAGE_MEAN) / IMAGE_STD
    np.testing.assert_allclose(normalise(values), expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (4, 1), (2, 2), (3, 5), (4, 4)])
@pytest.mark.parametrize("patch", [14, 28, 42, 84])
def test_the_token_count_is_that_of_the_published_formula(grid: tuple[int, int], patch: int) -> None:
    vision = VisionArgs(patch_size=patch)
    (h, w), g = grid, 336 // patch // 2
    if patch == 14:
        assert image_token_count(grid, vision) == (h * w + 1) * 144 + 1 + (h + 1) * 12
    index = image_token_index(grid, 0, h * w, h * w + 1, vision, "sub_glb")
    assert len(index) == image_token_count(grid, vision)
    # Every feature is used once, the row separator after each row, the image separator once.
    counts = np.bincount(index, minlength=(h * w + 1) * g * g + 2)
    assert (counts[:-2] == 1).all() and counts[-2] == (h + 1) * g and counts[-1] == 1


def test_crops_are_laid_back_on_their_grid() -> None:
    vision = VisionArgs(patch_size=84)  # 2 x 2 merged features a crop
    index = image_token_index((2, 3), 10, 16, 17, vision, "sub_glb")
    s, g = 17 * 4, 17 * 4 + 1
    crop = [4 * k for k in range(17)]
    first = [crop[11], crop[11] + 1, crop[12], crop[12] + 1, crop[13], crop[13] + 1, s]
    second = [crop[11] + 2, crop[11] + 3, crop[12] + 2, crop[12] + 3, crop[13] + 2, crop[13] + 3, s]
    assert index[:14].tolist() == first + second
    assert index[28:].tolist() == [g, 40, 41, s, 42, 43, s]
    other = image_token_index((2, 3), 10, 16, 17, vision, "glb_sub")
    assert other.tolist() == [*index[29:].tolist(), g, *index[:28].tolist()]


def test_missing_crops_pad_with_zeros() -> None:
    values = np.ones((2, 3, 4, 4), np.float32)
    padded = pad_crops(values, 4)
    assert padded.shape == (5, 3, 4, 4) and (padded[:2] == 1).all() and (padded[2:] == 0).all()
