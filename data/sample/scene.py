"""Where a product is photographed: the ground under it, its shadow, the light and the camera."""

from __future__ import annotations

import cv2
import numpy as np

from . import textures
from .drawing import Drawing, disc
from .paint import LUMA, Colour, Matrix, Picture, Rng, Vector, colourise, fill, pixels, tile_matrix

_GROUNDS: tuple[Colour, ...] = (
    (232, 230, 226),
    (214, 206, 194),
    (188, 160, 126),
    (158, 120, 84),
    (120, 88, 60),
    (150, 152, 156),
    (196, 204, 214),
    (184, 44, 40),
    (160, 60, 120),
    (206, 158, 150),
    (90, 96, 84),
    (60, 62, 70),
    (128, 146, 170),
)
_STUDIO_SHARE = 0.65  # shops photograph most products before a plain ground
_LIGHT = 24  # cells across the map of light, which is stretched over the picture


def _ground(rng: Rng, tint: Vector) -> Vector:
    """A background colour that the product's `tint` does not vanish in."""
    while True:
        ground = np.array(_GROUNDS[rng.integers(len(_GROUNDS))]) * rng.uniform(0.85, 1.08)
        if np.abs(ground - tint).max() > 45:
            return ground


def _any_colour(rng: Rng) -> Colour:
    red, green, blue = (float(c) for c in _ground(rng, np.full(3, -255.0)))
    return red, green, blue


def background(rng: Rng, width: int, height: int, tint: Vector) -> Picture:
    """Studio ground, wall, floor, carpet or bed sheet, now and then with a second ground or a thing at its edge."""
    ground = _ground(rng, tint)
    name = textures.BACKGROUNDS[rng.integers(len(textures.BACKGROUNDS))]
    if rng.random() < _STUDIO_SHARE:
        grey = rng.uniform(205, 250) if tint @ LUMA < 200 else rng.uniform(90, 150)
        name, ground = "wall", np.full(3, grey) + rng.uniform(-6, 6, 3)
    turn = rng.choice([0, 0.5]) * np.pi + rng.uniform(-0.3, 0.3)
    # Half the resolution is enough behind the product, and a quarter of the work.
    w, h = (width + 1) // 2, (height + 1) // 2
    shade = textures.lay(name, tile_matrix(rng, rng.uniform(250, 520) / max(w, h), turn), w, h)
    picture = colourise(shade, ground)
    if name != "wall" and rng.random() < 0.25:  # a skirting board, the end of the bed
        edge = rng.uniform(0.8, 0.95)
        corner = np.array([(edge, -0.1), (1.1, -0.1), (1.1, 1.1), (edge + rng.uniform(-0.08, 0.08), 1.1)]) - 0.5
        spin = [np.eye(2), -np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])][rng.integers(3)]
        fill(picture, (corner @ spin + 0.5) * [w, h], np.eye(2, 3), _any_colour(rng))
    if rng.random() < 0.15:  # some other object, half out of the picture
        x, y = (rng.uniform(0, w), rng.choice([0, h])) if rng.random() < 0.5 else (rng.choice([0, w]), rng.uniform(0, h))
        rx, ry = rng.uniform(0.05, 0.16, 2) * max(w, h)
        fill(picture, disc(x, y, rx, ry, steps=int(rng.choice([4, 5, 24]))), np.eye(2, 3), _any_colour(rng))
    return pixels(cv2.resize(picture, (width, height)))


def cast_shadow(rng: Rng, picture: Picture, drawing: Drawing, matrix: Matrix, scale: float) -> None:
    """Darken the ground beside the product; the light comes from one side."""
    height, width = picture.shape[:2]
    small = max(1, round(scale / 60))
    shrunk = (matrix + np.array([[0, 0, 1], [0, 0, 1]]) * (rng.uniform(-0.08, 0.08, (2, 1)) * scale)) / small
    shadow = np.zeros((height // small + 1, width // small + 1), np.uint8)
    for outline in drawing.outlines():
        fill(shadow, outline, shrunk, 76)
    soft = max(3, round(rng.uniform(0.05, 0.14) * scale / small)) | 1
    shadow = pixels(cv2.resize(cv2.blur(shadow, (soft, soft)), (width, height)))
    picture[:] = cv2.multiply(picture, cv2.merge([255 - shadow] * 3), scale=1 / 255)


def photograph(rng: Rng, picture: Picture) -> Picture:
    """Uneven light, a colour cast, a little blur and sensor noise."""
    height, width = picture.shape[:2]
    light = rng.uniform(0.82, 1.12, (2, 2, 1)) * rng.uniform(0.97, 1.03, 3)
    field = cv2.resize((light * 200).astype(np.uint8), (_LIGHT, _LIGHT))
    if rng.random() < 0.12:  # sun through a window
        x = rng.uniform(-0.3, 1.0)
        beam = np.array([(x, -0.1), (x + 0.35, -0.1), (x + 0.15, 1.1), (x - 0.2, 1.1)]) * _LIGHT
        sun = np.zeros((_LIGHT, _LIGHT, 3), np.uint8)
        fill(sun, beam, np.eye(2, 3), (44.0, 40.0, 30.0))
        field = cv2.add(field, sun)
    field = cv2.resize(field, (width, height))
    picture = pixels(cv2.multiply(picture, field, scale=1 / 200))
    if rng.random() < 0.35:
        picture = pixels(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.1)))
    strength = rng.uniform(0.02, 0.14)
    grain = textures.grain()
    y, x = rng.integers(0, grain.shape[0] - height), rng.integers(0, grain.shape[1] - width)
    return pixels(cv2.addWeighted(picture, 1.0, grain[y : y + height, x : x + width], strength, -128 * strength))
