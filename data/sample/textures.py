"""Tiles for cloth, patterns and backgrounds: grey 8-bit images that repeat, drawn once in each process.

Each tile is [512, 512] uint8. Shade tiles multiply colour (128 leaves it as it is); pattern tiles mix two colours
(0 is the first, 255 the second).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
SIZE = 512
FOLDS = 4  # kinds of wrinkles: folds0 ..


def _noise(seed: int, cells: int, octaves: int = 1) -> NDArray[np.float32]:
    """Smooth periodic noise in about -1..1 [512, 512], `cells` cycles across at its coarsest."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIZE, SIZE), np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        pad = 4
        wide = np.pad(grid, pad, mode="wrap")
        step = SIZE // count
        large = cv2.resize(wide, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        large = large[pad * step : pad * step + count * step, pad * step : pad * step + count * step]
        total += cv2.resize(large, (SIZE, SIZE)) / 2**octave
    return total


def _axes() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    return x, y


def _grey(values: NDArray[np.floating], most: int = 255) -> Grey:
    tile: Grey = np.clip(values, 0, most).astype(np.uint8)
    return tile


def _shade(values: NDArray[np.floating]) -> Grey:
    return _grey(128 * values)


def _cotton() -> Grey:
    x, y = _axes()
    weave = np.sin(2 * np.pi * 128 * x) * np.sin(2 * np.pi * 128 * y)
    return _shade(1 + 0.04 * weave + 0.05 * _noise(1, 4, 3))


def _wool() -> Grey:
    """Knit: columns of V-shaped stitches."""
    x, y = _axes()
    columns = 16
    slant = np.abs((x * columns) % 1 - 0.5)
    stitch = np.sin(2 * np.pi * (y * columns * 1.5 - slant * 1.6))
    groove = np.where(slant > 0.42, -0.5, 0.0) + np.where(slant < 0.06, -0.12, 0.0)
    return _shade(0.98 + 0.24 * stitch + groove + 0.1 * _noise(2, 64))


def _silk() -> Grey:
    """Soft wide bands of light along flowing folds."""
    x, y = _axes()
    flow = 3 * x + 2 * y + 0.35 * _noise(3, 4)
    band = np.cos(2 * np.pi * flow)
    return _shade(1.05 + 0.42 * np.sign(band) * np.abs(band) ** 1.5)


def _lit(height: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Light from the upper left on a relief: its slope over `step` pixels, in about -1..1."""
    slope = height - np.roll(height, (step, step), (0, 1))
    light: NDArray[np.float32] = np.clip(slope / (2.5 * slope.std()), -1, 1).astype(np.float32)
    return light


def _leather() -> Grey:
    """Pebbled grain with dark grooves between the pebbles."""
    x, y = _axes()
    rng = np.random.default_rng(4)
    cells = 28
    # The nearest two of one jittered point per cell: a groove runs where they are equally far.
    grid = rng.uniform(0.15, 0.85, (cells, cells, 2)).astype(np.float32)
    column, row = np.floor(x * cells).astype(int), np.floor(y * cells).astype(int)
    near = np.full((SIZE, SIZE), 9, np.float32)
    second = near.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            point = grid[(row + dy) % cells, (column + dx) % cells]
            away = np.hypot(column + dx + point[..., 0] - x * cells, row + dy + point[..., 1] - y * cells)
            second = np.minimum(second, np.maximum(near, away))
            near = np.minimum(near, away)
    groove = np.exp(-(((second - near) / 0.16) ** 2))
    return _shade(1.0 - 0.5 * groove + 0.25 * np.clip(0.5 - near, 0, 1) + 0.1 * _lit(_noise(5, 8, 2), 6))


def _gloss() -> Grey:
    """Light that leather throws back, to add and not to multiply: bright ridges along creases."""
    return _grey((_lit(_noise(6, 4, 2), 10) - 0.25) * 190, 130)


def _folds(seed: int) -> Grey:
    """Wrinkles of a worn or laid-out garment, longer one way than the other."""
    relief = _noise(seed, 4, 3)
    return _shade(1.0 + 0.2 * _lit(relief, 12) + 0.05 * _lit(relief, 4))


def _check() -> Grey:
    x, y = _axes()
    level = np.zeros((SIZE, SIZE), np.float32)
    for axis in (x, y):
        phase = (axis * 6) % 1
        level += 110 * (phase < 0.34) + 90 * (np.abs(phase - 0.67) < 0.045)
    return _grey(level * 1.16)


def _stripe() -> Grey:
    _, y = _axes()
    return np.where((y * 10) % 1 < 0.42, 255, 0).astype(np.uint8)


def _dots() -> Grey:
    tile = np.zeros((SIZE, SIZE), np.uint8)
    step = SIZE // 8
    for row in range(9):
        for column in range(-1, 9):
            centre = (column * step + (row % 2) * step // 2, row * step)
            cv2.circle(tile, centre, int(step * 0.27), 255, -1, cv2.LINE_AA)
    return tile


def _herringbone() -> Grey:
    x, y = _axes()
    zigzag = np.abs((x * 6) % 1 - 0.5) * 2
    return np.where((y * 22 + zigzag * 1.6) % 1 < 0.5, 255, 0).astype(np.uint8)


def _wood() -> Grey:
    x, y = _axes()
    boards = 8
    board = np.floor(x * boards)
    rng = np.random.default_rng(7)
    tint = rng.uniform(-0.12, 0.12, boards).astype(np.float32)[board.astype(int) % boards]
    grain = np.sin(2 * np.pi * (x * 48 + 0.7 * _noise(8, 4) + 0.3 * np.sin(2 * np.pi * (y + board / 3))))
    gap = np.where((x * boards) % 1 < 0.03, -0.35, 0.0)
    return _shade(1 + tint + 0.06 * grain + gap + 0.05 * _noise(9, 64))


def _sheet() -> Grey:
    """A crumpled bed sheet."""
    relief = _noise(10, 4, 4)
    return _shade(1 + 0.26 * _lit(np.abs(relief), 10) + 0.12 * _lit(relief, 24))


def _tiles() -> Grey:
    x, y = _axes()
    gap = ((x * 4) % 1 < 0.03) | ((y * 4) % 1 < 0.03)
    return _shade(np.where(gap, 0.7, 1.0).astype(np.float32) + 0.05 * _noise(12, 16, 2))


def _carpet() -> Grey:
    return _shade(1 + 0.25 * _noise(13, 128, 2))


def _quilt() -> Grey:
    x, y = _axes()
    diamond = np.minimum(np.abs(((x + y) * 6) % 1 - 0.5), np.abs(((x - y) * 6) % 1 - 0.5))
    return _shade(0.75 + 0.6 * np.clip(0.5 - np.abs(0.5 - diamond * 2), 0, 0.5) + 0.05 * _noise(14, 16))


def _rug() -> Grey:
    x, y = _axes()
    wave = np.sin(2 * np.pi * 3 * x + 2 * _noise(15, 4)) * np.sin(2 * np.pi * 3 * y + 2 * _noise(16, 4))
    return _shade(1 + 0.22 * np.sign(wave) * np.minimum(1, np.abs(wave) * 4) + 0.1 * _noise(17, 128))


def _wall() -> Grey:
    return _shade(1 + 0.05 * _noise(18, 4, 4))


_TILES: Mapping[str, Callable[[], Grey]] = {
    "cotton": _cotton,
    "wool": _wool,
    "silk": _silk,
    "leather": _leather,
    "gloss": _gloss,
    "check": _check,
    "stripe": _stripe,
    "dots": _dots,
    "herringbone": _herringbone,
    "wood": _wood,
    "sheet": _sheet,
    "tiles": _tiles,
    "carpet": _carpet,
    "quilt": _quilt,
    "rug": _rug,
    "wall": _wall,
} | {f"folds{kind}": partial(_folds, 20 + kind) for kind in range(FOLDS)}
BACKGROUNDS = ("wood", "sheet", "tiles", "carpet", "quilt", "rug", "wall")


@cache
def tile(name: str) -> Grey:
    """The tile called `name` [512, 512] uint8; drawn on first use."""
    return _TILES[name]()


@cache
def grain() -> NDArray[np.uint8]:
    """Sensor noise around 128 [1024, 1024, 3] uint8, to cut a window from."""
    return np.clip(np.random.default_rng(19).normal(128, 40, (1024, 1024, 3)), 0, 255).astype(np.uint8)


@cache
def _repeated(name: str) -> Grey:
    """Three by three of a tile: OpenCV wraps around a border five times slower than it reads on."""
    return np.tile(tile(name), (3, 3))


def lay(name: str, matrix: NDArray[np.float64], width: int, height: int) -> Grey:
    """Tile `name` over a picture [height, width] uint8; `matrix` [2, 3] takes picture pixels to tile pixels."""
    corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    matrix = matrix.copy()
    matrix[:, 2] -= SIZE * np.floor(corners.min(axis=1) / SIZE)  # whole tiles: the same picture, from the first tile on
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(_repeated(name), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    return np.asarray(laid, np.uint8)
