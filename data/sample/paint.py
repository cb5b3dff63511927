"""Polygons and tiles onto pixels: the few OpenCV calls that everything drawn goes through."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from . import textures
from .drawing import Points

Picture = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Rng = np.random.Generator
Colour = tuple[float, float, float]

# Red, green, blue 0..255; each product varies them a little.
COLOURS: Mapping[str, Colour] = {
    "black": (38, 38, 42),
    "white": (236, 234, 228),
    "grey": (132, 134, 138),
    "camel": (200, 160, 108),
    "brown": (106, 66, 40),
    "red": (190, 30, 36),
    "pink": (236, 150, 176),
    "orange": (232, 116, 32),
    "yellow": (238, 204, 60),
    "green": (48, 122, 66),
    "blue": (58, 128, 214),
    "navy": (28, 42, 98),
    "purple": (118, 62, 150),
}
TRIM: Mapping[str, Colour] = {
    "metal": (214, 180, 92),
    "sole": (240, 238, 230),
    "lace": (246, 244, 240),
    "dark": (44, 36, 32),
    "button": (240, 232, 214),
    "hook": (70, 72, 78),
    "strap": (74, 56, 44),
}
LUMA = np.array([0.3, 0.59, 0.11])  # lightness of red, green, blue
_FRACTION_BITS = 4  # sub-pixel digits of OpenCV's fixed-point coordinates


def pixels(image: MatLike) -> Picture:
    """OpenCV's answer as uint8, without a copy."""
    return np.asarray(image, np.uint8)


def _place(points: Points, matrix: Matrix) -> NDArray[np.int32]:
    """Units -> fixed-point pixels [N, 2]."""
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    return np.round(placed * (1 << _FRACTION_BITS)).astype(np.int32)


def fill(image: Picture, points: Points, matrix: Matrix, value: float | Colour) -> None:
    """Fill a polygon [N, 2] with a grey or a colour; `matrix` [2, 3] takes its units to pixels."""
    paint = value if isinstance(value, tuple) else (value,)
    cv2.fillPoly(image, [_place(points, matrix)], paint, cv2.LINE_AA, _FRACTION_BITS)


def line(image: Picture, points: Points, matrix: Matrix, value: float | Colour, width: int) -> None:
    """Draw a line [N, 2], `width` pixels wide."""
    paint = value if isinstance(value, tuple) else (value,)
    cv2.polylines(image, [_place(points, matrix)], False, paint, width, cv2.LINE_AA, _FRACTION_BITS)


def outline(image: Picture, points: Points, matrix: Matrix, value: float | Colour, width: int) -> None:
    """Draw a polygon's edge."""
    line(image, np.concatenate([points, points[:1]]), matrix, value, width)


def tile_matrix(rng: Rng, scale: float, angle: float) -> Matrix:
    """A matrix [2, 3] from picture pixels to tile pixels, `scale` tile pixels per picture pixel."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = rng.uniform(0, textures.SIZE, 2)
    return np.array([[c, -s, x], [s, c, y]])


def colourise(shade: Picture, colour: Vector) -> Picture:
    """A grey tile [H, W] (128 neutral) in `colour` -> [H, W, 3]."""
    ramp = np.clip(np.arange(256)[:, None] / 128 * colour, 0, 255).astype(np.uint8)
    return np.take(ramp, shade, axis=0)
