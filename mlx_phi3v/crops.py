"""Photo -> crops: the published Phi3VImageProcessor ("HD transform") in Pillow and numpy.

Letters in shapes: K sub-crops of an image, h x w their grid, N crops of a batch, g the merged grid of a crop
(12 in ViT-L/14).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .config import CROP_SIZE, IMAGE_MEAN, IMAGE_STD, VisionArgs
from .errors import UserError


@dataclass(frozen=True)
class ProcessedImage:
    """Crops of one image.

    pixel_values: fp32 [1 + h*w, 3, 336, 336], the global image first, then the crops row by row.
    grid: (h, w), in crops.
    key: names the photo's file in a `training.feature_cache.FeatureCache`.
    features: fp32 [crop_count * g^2 + 2, H], its projected features and the two separators', where they are known;
    pixel_values may then be empty.
    """

    pixel_values: np.ndarray
    grid: tuple[int, int]
    key: str | None = None
    features: np.ndarray | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels after the HD transform, as the published processor reports it."""
        return self.grid[0] * CROP_SIZE, self.grid[1] * CROP_SIZE

    @property
    def crop_count(self) -> int:
        """Crops to encode."""
        return encoded_crops(self.grid)

    @property
    def distinct_crops(self) -> np.ndarray:
        """The crops to encode, fp32 [crop_count, 3, 336, 336]."""
        return self.pixel_values[: self.crop_count]


def encoded_crops(grid: tuple[int, int]) -> int:
    """Crops to encode: of a photo of one crop the global image is that very crop, so it is encoded once."""
    return 1 if grid == (1, 1) else 1 + grid[0] * grid[1]


def crop_grid(width: int, height: int, num_crops: int) -> tuple[int, int, int, int]:
    """Grid (h, w) in crops and resized (height, width) in pixels of a landscape image (width >= height).

    The scale is the largest s with s * ceil(s / ratio) <= num_crops.
    """
    ratio = width / height
    scale = 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    new_width = scale * CROP_SIZE
    # The published code fails on a strip thinner than 1/336 of its length; here it gets one pixel.
    new_height = max(1, int(new_width / ratio))
    return math.ceil(new_height / CROP_SIZE), scale, new_height, new_width


def crop_grid_of(size: tuple[int, int], num_crops: int) -> tuple[int, int]:
    """Grid (h, w) in crops of a photo of `size` (width, height) in pixels."""
    rows, columns, _, _ = crop_grid(max(size), min(size), num_crops)
    return (columns, rows) if size[0] < size[1] else (rows, columns)


def hd_transform(image: Image.Image, num_crops: int) -> np.ndarray:
    """Resize to whole crops and pad with white; uint8 [h*336, w*336, 3]. Portrait images are turned for it and back.

    Raises UserError if `num_crops` is below 1.
    """
    if num_crops < 1:
        raise UserError(f"num_crops is {num_crops}; it must be 1 or more")
    portrait = image.width < image.height
    if portrait:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    rows, columns, new_height, new_width = crop_grid(image.width, image.height, num_crops)
    resized = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
    canvas = np.full((rows * CROP_SIZE, columns * CROP_SIZE, 3), 255, np.uint8)
    top = (rows * CROP_SIZE - new_height) // 2
    canvas[top : top + new_height] = resized
    return canvas.transpose(1, 0, 2) if portrait else canvas


def _cubic_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices [size_out, 4] and fp32 weights [size_out, 4] of cubic convolution (Keys 1981, a = -0.75)."""
    source = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * np.float32(size_in / size_out) - np.float32(0.5)
    floor = np.floor(source)
    t = (source - floor).astype(np.float32)
    a = np.float32(-0.75)

    def near(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weights = np.stack([far(t + 1), near(t), near(1 - t), far((1 - t) + 1)], axis=1)
    indices = floor.astype(np.int64)[:, None] + np.arange(-1, 3)
    return np.clip(indices, 0, size_in - 1), weights.astype(np.float32)


def _weighted_sum(products: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """Sum of four fp32 products as torch's kernel rounds it: p0*w0 + round(p1*w1), each further product fused in."""
    total: np.ndarray = products[1] * weights[1]
    for i in (0, 2, 3):
        total = (products[i].astype(np.float64) * weights[i] + total).astype(np.float32)
    return total


def resize_bicubic(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """`torch.nn.functional.interpolate(mode="bicubic")` of fp32 [C, H, W]: half-pixel centres, no antialiasing."""
    if values.shape[1:] == (height, width):
        return values
    columns, weights = _cubic_taps(values.shape[2], width)
    values = _weighted_sum([values[:, :, columns[:, i]] for i in range(4)], [weights[:, i] for i in range(4)])
    rows, weights = _cubic_taps(values.shape[1], height)
    return _weighted_sum([values[:, rows[:, i]] for i in range(4)], [weights[:, i, None] for i in range(4)])


# Every 8-bit value normalised once, fp32 [3, 256]: a look-up gives the same bits as the arithmetic, much faster.
_NORMALISED = np.stack(
    [
        (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
        for mean, std in zip(IMAGE_MEAN, IMAGE_STD)
    ]
)


def normalise(canvas: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> fp32 [3, H, W], scaled to [0, 1] and normalised with CLIP's mean and deviation."""
    return np.stack([table[canvas[:, :, channel]] for channel, table in enumerate(_NORMALISED)])


def process_image(image: Image.Image, num_crops: int) -> ProcessedImage:
    """The published processor on one RGB image. Raises UserError where `num_crops` is below 1."""
    canvas = hd_transform(image if image.mode == "RGB" else image.convert("RGB"), num_crops)
    pixels = normalise(canvas)
    h, w = canvas.shape[0] // CROP_SIZE, canvas.shape[1] // CROP_SIZE
    crops = pixels.reshape(3, h, CROP_SIZE, w, CROP_SIZE).transpose(1, 3, 0, 2, 4).reshape(h * w, 3, CROP_SIZE, CROP_SIZE)
    return ProcessedImage(np.concatenate([resize_bicubic(pixels, CROP_SIZE, CROP_SIZE)[None], crops]), (h, w))


def image_token_count(grid: tuple[int, int], vision: VisionArgs) -> int:
    """Tokens an image of h x w crops takes: (h*w + 1) * g^2 + 1 + (h + 1) * g."""
    (h, w), g = grid, vision.merged_grid
    return (h * w + 1) * g * g + 1 + (h + 1) * g


def image_token_index(
    grid: tuple[int, int], first_crop: int, last_crop: int, total_crops: int, vision: VisionArgs, order: str
) -> np.ndarray:
    """Where each token of an image comes from, int64 [image_token_count].

    The source is a table of `total_crops * g^2` merged features, crop by crop, then one row for `sub_GN` and one
    for `glb_GN`. `first_crop` is the global image; the h*w crops end at `last_crop` and are laid back on their grid,
    so a row runs across all crops; each row ends in `sub_GN`.
    """
    g = vision.merged_grid
    separator, global_separator = total_crops * g * g, total_crops * g * g + 1

    def laid_out(h: int, w: int, first: int) -> np.ndarray:
        crops = (first + np.arange(h * w)).reshape(h, 1, w, 1) * g * g
        inside = np.arange(g).reshape(1, g, 1, 1) * g + np.arange(g).reshape(1, 1, 1, g)
        rows = (crops + inside).reshape(h * g, w * g)
        return np.concatenate([rows, np.full((h * g, 1), separator)], axis=1).reshape(-1)

    sub = laid_out(*grid, last_crop + 1 - grid[0] * grid[1])
    whole = laid_out(1, 1, first_crop)
    order_of_views = (sub, [global_separator], whole) if order == "sub_glb" else (whole, [global_separator], sub)
    return np.concatenate(order_of_views).astype(np.int64)


def pad_crops(pixel_values: np.ndarray, num_crops: int) -> np.ndarray:
    """Zero crops up to num_crops + 1, as the published processor returns them: [num_crops + 1, 3, 336, 336]."""
    missing = num_crops + 1 - len(pixel_values)
    return np.concatenate([pixel_values, np.zeros((missing, *pixel_values.shape[1:]), pixel_values.dtype)])
