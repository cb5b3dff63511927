"""A picture of one product: its drawing filled with cloth, put on a background, lit and photographed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from . import shapes_accessories, shapes_clothes, textures
from .drawing import Drawing, disc
from .paint import COLOURS, LUMA, TRIM, Matrix, Picture, Rng, Vector, colourise, fill, line, outline, pixels, tile_matrix
from .scene import background, cast_shadow, photograph

SHAPES: Mapping[str, Callable[[Rng, float], Drawing]] = {
    "tshirt": shapes_clothes.tshirt,
    "shirt": shapes_clothes.shirt,
    "sweater": shapes_clothes.sweater,
    "coat": shapes_clothes.coat,
    "dress": shapes_clothes.dress,
    "skirt": shapes_clothes.skirt,
    "trousers": shapes_clothes.trousers,
    "shorts": shapes_clothes.shorts,
    "sneakers": shapes_accessories.sneakers,
    "boots": shapes_accessories.boots,
    "hat": shapes_accessories.hat,
    "bag": shapes_accessories.bag,
    "scarf": shapes_accessories.scarf,
    "belt": shapes_accessories.belt,
}

# Tile pixels per unit of a drawing: how coarse each material is.
_TILES_PER_UNIT = {"cotton": 400.0, "wool": 400.0, "silk": 230.0, "leather": 420.0, "gloss": 300.0}
# The badge's letters as strokes, in -1..1.
_LETTERS: Mapping[str, list[list[tuple[float, float]]]] = {
    "S": [[(0.6, -0.75), (0.1, -1.0), (-0.5, -0.8), (-0.5, -0.3), (0.5, 0.25), (0.5, 0.8), (-0.1, 1.0), (-0.65, 0.75)]],
    "A": [[(-0.75, 1.0), (0.0, -1.0), (0.75, 1.0)], [(-0.4, 0.35), (0.4, 0.35)]],
    "X": [[(-0.7, -0.9), (0.7, 0.9)], [(0.7, -0.9), (-0.7, 0.9)]],
    "T": [[(-0.75, -0.9), (0.75, -0.9)], [(0.0, -0.9), (0.0, 1.0)]],
}
JPEG_QUALITY = 90


def _scale(matrix: Matrix) -> float:
    """Pixels per unit."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _frame(drawing: Drawing, rng: Rng) -> tuple[int, int, Matrix]:
    """Picture width and height in pixels, and the matrix [2, 3] from units to pixels: turned, flipped, off centre."""
    left, top, right, bottom = drawing.bounds()
    angle = np.radians(np.clip(rng.normal(0, 9), -25, 25))
    cosine, sine = np.cos(angle), np.sin(angle)
    w, h = right - left, bottom - top
    wide, high = w * abs(cosine) + h * abs(sine), w * abs(sine) + h * abs(cosine)
    aspect = float(np.clip((wide / high) ** 0.7 * np.exp(rng.normal(0, 0.2)), 0.5, 2.0))
    long_side = round(np.exp(rng.uniform(np.log(240), np.log(640))))
    short = max(180, round(long_side * min(aspect, 1 / aspect)))
    width, height = (long_side, short) if aspect >= 1 else (short, long_side)
    scale = rng.uniform(0.72, 0.95) * min(width / wide, height / high)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = scale * np.array([[cosine * flip, -sine], [sine * flip, cosine]])
    room = np.array([width - wide * scale, height - high * scale])
    centre = np.array([width, height]) / 2 + room * rng.uniform(-0.4, 0.4, 2)
    offset = centre - linear @ np.array([(left + right) / 2, (top + bottom) / 2])
    return width, height, np.column_stack([linear, offset])


def _contrast(rng: Rng, colour: Vector) -> Vector:
    """A second colour for a pattern, far from the first in lightness."""
    options = ("white", "camel", "yellow") if colour @ LUMA < 120 else ("black", "navy", "brown")
    return 0.15 * colour + 0.85 * np.array(COLOURS[options[rng.integers(len(options))]])


def _cloth(rng: Rng, tone: Picture, mask: Picture, matrix: Matrix, tint: Vector, material: str, pattern: str) -> Picture:
    """The product's surface [H, W, 3] over its whole box; `tone` [H, W] is the drawing's shading, 128 neutral."""
    height, width = tone.shape
    scale = _scale(matrix)
    inverse = np.asarray(cv2.invertAffineTransform(matrix), np.float64)

    def tile_of(name: str, per_unit: float) -> Picture:
        to_tile = inverse * per_unit
        to_tile[:, 2] += rng.uniform(0, textures.SIZE, 2)
        return textures.lay(name, to_tile, width, height)

    def shaded(one: Picture, other: Picture, neutral: int = 128) -> Picture:
        return pixels(cv2.multiply(one, other, scale=1 / neutral))

    shade = shaded(tile_of(material, _TILES_PER_UNIT[material]), tone)
    across = tile_matrix(rng, rng.uniform(180, 300) / scale, rng.uniform(0, np.pi))
    shade = shaded(shade, textures.lay(f"folds{rng.integers(textures.FOLDS)}", across, width, height))
    reach = max(3, round(0.16 * scale)) | 1
    # Cloth curves away from the light towards its outline.
    shade = shaded(shade, pixels(cv2.addWeighted(cv2.blur(mask, (reach, reach)), 0.55, mask, 0.0, 92)), 215)
    if pattern == "plain":
        picture = colourise(shade, tint)
    else:
        level = tile_of(pattern, rng.uniform(320, 460))
        ramp = tint + np.arange(256)[:, None] / 255 * (_contrast(rng, tint) - tint)
        picture = shaded(np.take(np.clip(ramp, 0, 255).astype(np.uint8), level, axis=0), pixels(cv2.merge([shade] * 3)))
    if material == "leather":
        gloss = shaded(tile_of("gloss", _TILES_PER_UNIT["gloss"]), tone)
        picture = pixels(cv2.add(picture, cv2.merge([gloss] * 3)))
    elif material == "silk":
        sheen = cv2.subtract(shade, np.full_like(shade, 128))
        picture = pixels(cv2.addWeighted(picture, 1.0, cv2.merge([sheen] * 3), 0.55, 0))
    return picture


def _topstitch(surface: Picture, mask: Picture, scale: float) -> None:
    """Light stitches a little inside the outline, as leather goods have."""
    inset = max(2, round(0.045 * scale))
    inner = cv2.erode(mask, np.ones((2 * inset + 1, 2 * inset + 1), np.uint8))
    width = 2 * max(1, round(0.012 * scale)) + 1
    track = cv2.subtract(inner, cv2.erode(inner, np.ones((width, width), np.uint8)))
    y, x = np.ogrid[0 : track.shape[0], 0 : track.shape[1]]
    surface[(track > 128) & ((x + y) % max(5, round(0.08 * scale)) > 0.03 * scale)] = (246, 232, 200)


def _emblem(picture: Picture, drawing: Drawing, matrix: Matrix, letter: str, dark: bool) -> None:
    """A round badge with the brand's letter. dark: whether the cloth is dark."""
    x, y, radius = drawing.logo
    light, black = (250.0, 246.0, 236.0), (24.0, 22.0, 30.0)
    plate, ink = (light, black) if dark else (black, light)
    fill(picture, disc(x, y, radius, steps=32), matrix, ink)
    fill(picture, disc(x, y, radius * 0.9, steps=32), matrix, plate)
    flip = np.sign(np.linalg.det(matrix[:, :2]))  # the garment may be flipped, print is not
    width = max(2, round(radius * _scale(matrix) * 0.26))
    for stroke in _LETTERS[letter]:
        line(picture, np.asarray(stroke) * radius * 0.55 * [flip, 1] + np.array([x, y]), matrix, ink, width)


def lay_out(rng: Rng, shape: str, size: float) -> tuple[Drawing, int, int, Matrix]:
    """The drawing, the picture's width and height in pixels, and the matrix [2, 3] from the drawing's units to pixels.

    `render` begins with it, so the same stream state gives the geometry of the same picture.
    """
    drawing = SHAPES[shape](rng, size)
    return drawing, *_frame(drawing, rng)


def render(rng: Rng, *, shape: str, material: str, colour: str, pattern: str, size: float, logo: bool, letter: str) -> Picture:
    """Draw one product photo -> [H, W, 3] uint8 RGB, sides 180 to 640 pixels, aspect 1:2 to 2:1.

    The keys are those of `SHAPES` and `COLOURS`, a material and a pattern tile of `textures`; `size` runs from 0
    (smallest) to 1. The same stream state gives the same pixels.
    """
    drawing, width, height, matrix = lay_out(rng, shape, size)
    scale = _scale(matrix)
    tint = np.clip(np.array(COLOURS[colour]) * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8, 3), 0, 255)
    picture = background(rng, width, height, tint)
    cast_shadow(rng, picture, drawing, matrix, scale)

    corners = np.concatenate([piece.points for piece in drawing.cloth]) @ matrix[:, :2].T + matrix[:, 2]
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 3, [width, height])
    local = matrix - np.array([[0, 0, left], [0, 0, top]])
    mask, tone = np.zeros((bottom - top, right - left), np.uint8), np.full((bottom - top, right - left), 128, np.uint8)
    edge = max(1, round(0.014 * scale))
    for piece in drawing.cloth:
        fill(mask, piece.points, local, 255)
        fill(tone, piece.points, local, 128 * piece.shade)
        outline(tone, piece.points, local, 70, edge)
    for seam in drawing.seams:
        line(tone, seam.points, local, min(255, 128 * seam.shade), max(1, round(seam.width * scale)))

    surface = _cloth(rng, tone, mask, local, tint, material, pattern)
    if material == "leather":
        _topstitch(surface, mask, scale)
    window = picture[top:bottom, left:right]
    share = mask.astype(np.float32) / 255
    window[:] = cv2.blendLinear(surface, np.ascontiguousarray(window), share, 1 - share)
    for accent in drawing.accents:
        red, green, blue = TRIM[accent.colour]
        fill(picture, accent.points, matrix, (red, green, blue))
        if scale > 80:  # on a small picture the edge would hide the trim
            outline(picture, accent.points, matrix, (0.55 * red, 0.55 * green, 0.55 * blue), 1)
    if logo:
        _emblem(picture, drawing, matrix, letter, dark=bool(tint @ LUMA < 150))
    return photograph(rng, picture)


def encode(picture: Picture) -> bytes:
    """JPEG bytes of an RGB picture [H, W, 3] uint8."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()
