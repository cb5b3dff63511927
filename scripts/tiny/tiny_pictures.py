"""The pictures that the tiny model is pre-trained on, and what each of their patches shows."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from data.sample.brands import Brand, get_brand
from data.sample.products import choose_appearance, draw_product, picture_stream
from data.sample.render import lay_out
from mlx_phi3v.config import CROP_SIZE, IMAGE_MEAN, IMAGE_STD
from mlx_phi3v.crops import hd_transform
from mlx_phi3v.photo import open_photo

MASK = 84  # side of the stored masks: a quarter of the crop
_CHUNK = 100


def where(brand: Brand, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Product `index`'s mask, uint8 [84, 84], and the matrix fp32 [2, 3] from pixels of the crop to its own frame.

    The product's bounding box runs from -1 to 1 in its own frame, whatever the pose.
    """
    look = choose_appearance(brand, seed, index)
    rng, size = picture_stream(brand, seed, index, look)
    drawing, width, height, matrix = lay_out(rng, look.shape, size)
    scale = CROP_SIZE / max(width, height)
    pad = (CROP_SIZE - np.array([width, height]) * scale) / 2
    to_crop = np.column_stack([matrix[:, :2] * scale, matrix[:, 2] * scale + pad])
    mask = np.zeros((MASK, MASK), np.uint8)
    small = to_crop * (MASK / CROP_SIZE)
    for points in drawing.outlines():
        cv2.fillPoly(mask, [np.round(points @ small[:, :2].T + small[:, 2]).astype(np.int32)], 255)
    left, top, right, bottom = drawing.bounds()
    inverse: np.ndarray = cv2.invertAffineTransform(to_crop)
    centre, half = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top]) / 2
    inverse[:, 2] -= centre
    return mask, (inverse / half[:, None]).astype(np.float32)


def _draw(job: tuple[str, int, int, int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Crop uint8 [336, 336, 3], mask and matrix of a range of products."""
    cv2.setNumThreads(1)
    brand, seed = get_brand(job[0]), job[1]
    pictures = []
    for i in range(job[2], job[3]):
        square = hd_transform(open_photo(draw_product(brand, seed, i).picture), 1)
        pictures.append((square, *where(brand, seed, i)))
    return pictures


@dataclass(frozen=True)
class Pictures:
    """Memory-mapped arrays by product: crops uint8 [N, 336, 336, 3], masks uint8 [N, 84, 84], frames fp32 [N, 2, 3]."""

    crops: np.ndarray
    masks: np.ndarray
    frames: np.ndarray


def load_pictures(folder: Path, brand: str, seed: int, count: int, processes: int) -> Pictures:
    """Products 0 to `count` of the catalogue `seed`, drawn once and stored in `folder`."""
    paths = [folder / f"{brand}-{seed}-{count}-{part}.npy" for part in ("crops", "masks", "frames")]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        shapes = [((count, CROP_SIZE, CROP_SIZE, 3), np.uint8), ((count, MASK, MASK), np.uint8), ((count, 2, 3), np.float32)]
        temporary = [path.with_suffix(".tmp") for path in paths]
        arrays = [np.lib.format.open_memmap(t, "w+", dtype, shape) for t, (shape, dtype) in zip(temporary, shapes)]
        starts = range(0, count, _CHUNK)
        jobs = [(brand, seed, i, min(i + _CHUNK, count)) for i in starts]
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            for start, chunk in zip(starts, pool.map(_draw, jobs)):
                for array, values in zip(arrays, zip(*chunk)):
                    array[start : start + len(chunk)] = np.stack(values)
        for array, source, target in zip(arrays, temporary, paths):
            array.flush()
            os.replace(source, target)
    return Pictures(*(np.load(path, mmap_mode="r") for path in paths))


def patches(crops: np.ndarray, shown: np.ndarray, size: int) -> np.ndarray:
    """Some patches of crops uint8 [N, 336, 336, 3], normalised, fp32 [N, K, 3 * size^2] in the order of a convolution's weight.

    shown: int [N, K], numbers of patches, row by row.
    """
    count, grid = len(crops), CROP_SIZE // size
    tiles = crops.reshape(count, grid, size, grid, size, 3)
    rows = np.arange(count)[:, None]
    chosen = tiles[rows, shown // grid, :, shown % grid].transpose(0, 1, 4, 2, 3)
    scale = (1 / (255 * np.asarray(IMAGE_STD, np.float32)))[:, None, None]
    shift = (np.asarray(IMAGE_MEAN, np.float32) / np.asarray(IMAGE_STD, np.float32))[:, None, None]
    return (chosen * scale - shift).reshape(count, shown.shape[1], -1)


def vary(pictures: Pictures, index: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture `index`, mirrored, moved and zoomed at random -> (crop uint8 [336, 336, 3], share [P], place [P, 2]).

    share: how much of each patch the product covers. place: each patch's centre in the product's own frame.
    """
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    zoom = rng.uniform(0.85, 1.1)
    middle = CROP_SIZE / 2
    move = np.array([middle, middle]) + rng.uniform(-16, 16, 2)
    warp = np.array([[zoom * mirror, 0, move[0] - zoom * mirror * middle], [0, zoom, move[1] - zoom * middle]])
    white = (255, 255, 255)
    crop = cv2.warpAffine(np.asarray(pictures.crops[index]), warp, (CROP_SIZE, CROP_SIZE), borderValue=white)
    shrunk = warp.copy()
    shrunk[:, 2] *= MASK / CROP_SIZE
    grid = CROP_SIZE // size
    mask = cv2.warpAffine(np.asarray(pictures.masks[index]), shrunk, (MASK, MASK))
    share = cv2.resize(mask, (grid, grid), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float32) / 255
    back = cv2.invertAffineTransform(warp)
    frame = np.asarray(pictures.frames[index], np.float64)
    linear, offset = frame[:, :2] @ back[:, :2], frame[:, :2] @ back[:, 2] + frame[:, 2]
    centres = (np.arange(grid) + 0.5) * size
    x, y = np.meshgrid(centres, centres)
    place = np.stack([x.reshape(-1), y.reshape(-1)], axis=1) @ linear.T + offset
    place[:, 0] = np.abs(place[:, 0])  # a mirrored product is the same product
    return crop, share, place.astype(np.float32)
