"""A picture of one product: its drawing filled with cloth, put on a background, lit and photographed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from . import shapes_accessories, shapes_clothes, textures
from .drawing import Drawing, Points, disc

Picture = NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[float, float, float]

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
_TRIM: Mapping[str, Colour] = {
    "metal": (214, 180, 92),
    "sole": (240, 238, 230),
    "lace": (246, 244, 240),
    "dark": (44, 36, 32),
    "button": (240, 232, 214),
    "hook": (70, 72, 78),
    "strap": (74, 56, 44),
}
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
_FRACTION_BITS = 4  # sub-pixel digits of OpenCV's fixed-point coordinates
_LIGHT = 24  # cells across the map of light, which is stretched over the picture
JPEG_QUALITY = 90


def _place(points: Points, matrix: NDArray[np.float64]) -> NDArray[np.int32]:
    """Units -> fixed-point pixels [N, 2]."""
    pixels = points @ matrix[:, :2].T + matrix[:, 2]
    return np.round(pixels * (1 << _FRACTION_BITS)).astype(np.int32)


def _fill(image: NDArray[np.uint8], points: Points, matrix: NDArray[np.float64], value: float | Colour) -> None:
    cv2.fillPoly(image, [_place(points, matrix)], value, cv2.LINE_AA, _FRACTION_BITS)  # type: ignore[call-overload]


def _line(image: NDArray[np.uint8], points: Points, matrix: NDArray[np.float64], value: float, width: int) -> None:
    cv2.polylines(image, [_place(points, matrix)], False, value, width, cv2.LINE_AA, _FRACTION_BITS)  # type: ignore[call-overload]


def _frame(drawing: Drawing, rng: Rng) -> tuple[int, int, NDArray[np.float64], float]:
    """Picture width and height in pixels, the matrix [2, 3] from units to pixels, and pixels per unit."""
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
    return int(width), int(height), np.column_stack([linear, offset]), float(scale)


def _tile_matrix(rng: Rng, scale: float, angle: float) -> NDArray[np.float64]:
    """A matrix [2, 3] from picture pixels to tile pixels, `scale` tile pixels per picture pixel."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = rng.uniform(0, textures.SIZE, 2)
    return np.array([[c, -s, x], [s, c, y]])


_LUMA = np.array([0.3, 0.59, 0.11])


def _ground(rng: Rng, tint: NDArray[np.float64]) -> NDArray[np.float64]:
    """A background colour that the product's `tint` does not vanish in."""
    while True:
        ground = np.array(_GROUNDS[rng.integers(len(_GROUNDS))]) * rng.uniform(0.85, 1.08)
        if np.abs(ground - tint).max() > 45:
            return ground


def _colourise(shade: NDArray[np.uint8], colour: NDArray[np.float64]) -> Picture:
    """A grey tile [H, W] (128 neutral) in `colour` -> [H, W, 3]."""
    ramp = np.clip(np.arange(256)[:, None] / 128 * colour, 0, 255).astype(np.uint8)
    return np.take(ramp, shade, axis=0)


def _background(rng: Rng, width: int, height: int, tint: NDArray[np.float64]) -> Picture:
    """Wall, floor, carpet or bed sheet, now and then with a second ground or a thing at its edge."""
    ground = _ground(rng, tint)
    name = textures.BACKGROUNDS[rng.integers(len(textures.BACKGROUNDS))]
    if rng.random() < 0.25 and tint @ _LUMA < 200:
        name, ground = "wall", np.full(3, rng.uniform(205, 250)) + rng.uniform(-6, 6, 3)
    turn = rng.choice([0, 0.5]) * np.pi + rng.uniform(-0.3, 0.3)
    # Half the resolution is enough behind the product, and a quarter of the work.
    w, h = (width + 1) // 2, (height + 1) // 2
    shade = textures.lay(name, _tile_matrix(rng, rng.uniform(250, 520) / max(w, h), turn), w, h)
    picture = _colourise(shade, ground)
    if name != "wall" and rng.random() < 0.25:  # a skirting board, the end of the bed
        edge = rng.uniform(0.8, 0.95)
        corner = np.array([(edge, -0.1), (1.1, -0.1), (1.1, 1.1), (edge + rng.uniform(-0.08, 0.08), 1.1)]) - 0.5
        spin = [np.eye(2), -np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])][rng.integers(3)]
        _fill(picture, (corner @ spin + 0.5) * [w, h], np.eye(2, 3), _any_colour(rng))
    if rng.random() < 0.15:  # something that lies about, half out of the picture
        x, y = (rng.uniform(0, w), rng.choice([0, h])) if rng.random() < 0.5 else (rng.choice([0, w]), rng.uniform(0, h))
        rx, ry = rng.uniform(0.05, 0.16, 2) * max(w, h)
        _fill(picture, disc(x, y, rx, ry, steps=int(rng.choice([4, 5, 24]))), np.eye(2, 3), _any_colour(rng))
    return cv2.resize(picture, (width, height))  # type: ignore[return-value]


def _any_colour(rng: Rng) -> Colour:
    red, green, blue = (float(c) for c in _ground(rng, np.full(3, -255.0)))
    return red, green, blue


def _contrast(rng: Rng, colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """A second colour for a pattern, far from the first in lightness."""
    light = colour @ _LUMA
    other = np.array(
        COLOURS[("white", "camel", "yellow")[rng.integers(3)]]
        if light < 120
        else COLOURS[("black", "navy", "brown")[rng.integers(3)]]
    )
    return 0.15 * colour + 0.85 * other


def _cloth(
    rng: Rng,
    tone: NDArray[np.uint8],
    round_mask: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    colour: NDArray[np.float64],
    material: str,
    pattern: str,
) -> Picture:
    """The product's surface [H, W, 3] uint8 over its whole box; `tone` [H, W] is the drawing's shading, 128 neutral."""
    height, width = tone.shape
    inverse = cv2.invertAffineTransform(matrix)

    def tile_of(name: str, per_unit: float) -> NDArray[np.uint8]:
        m = inverse * per_unit
        m[:, 2] += rng.uniform(0, textures.SIZE, 2)
        return textures.lay(name, m, width, height)

    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    texture = tile_of(material, {"cotton": 400.0, "wool": 400.0, "silk": 230.0, "leather": 420.0}[material])
    folds = textures.lay(
        f"folds{rng.integers(4)}", _tile_matrix(rng, rng.uniform(180, 300) / scale, rng.uniform(0, np.pi)), width, height
    )
    shade = cv2.multiply(texture, tone, scale=1 / 128)
    shade = cv2.multiply(shade, folds, scale=1 / 128)
    shade = cv2.multiply(shade, round_mask, scale=1 / 215)
    base = np.clip(colour * (0.9 if material == "leather" else 1.0), 0, 255)
    if pattern == "plain":
        picture = _colourise(shade, base)
    else:
        level = tile_of(pattern, rng.uniform(320, 460))
        ramp = base + np.arange(256)[:, None] / 255 * (_contrast(rng, base) - base)
        picture = cv2.multiply(
            np.take(np.clip(ramp, 0, 255).astype(np.uint8), level, axis=0), cv2.merge([shade] * 3), scale=1 / 128
        )
    if material == "leather":
        gloss = cv2.multiply(tile_of("gloss", 300.0), tone, scale=1 / 128)
        picture = cv2.add(picture, cv2.merge([gloss] * 3))
    elif material == "silk":
        sheen = cv2.subtract(shade, np.full_like(shade, 128))
        picture = cv2.addWeighted(picture, 1.0, cv2.merge([sheen] * 3), 0.55, 0)
    return picture  # type: ignore[return-value]


def _topstitch(surface: Picture, mask: NDArray[np.uint8], scale: float) -> None:
    """Light stitches a little inside the outline, as leather goods have."""
    inset = max(2, round(0.045 * scale))
    inner = cv2.erode(mask, np.ones((2 * inset + 1, 2 * inset + 1), np.uint8))
    width = 2 * max(1, round(0.012 * scale)) + 1
    line = cv2.subtract(inner, cv2.erode(inner, np.ones((width, width), np.uint8)))
    y, x = np.ogrid[0 : line.shape[0], 0 : line.shape[1]]
    surface[(line > 128) & ((x + y) % max(5, round(0.08 * scale)) > 0.03 * scale)] = (246, 232, 200)


def _emblem(picture: Picture, drawing: Drawing, matrix: NDArray[np.float64], letter: str, dark: bool) -> None:
    """A round badge with the house's letter."""
    x, y, radius = drawing.logo
    plate, ink = ((250.0, 246.0, 236.0), (24.0, 22.0, 30.0)) if dark else ((24.0, 22.0, 30.0), (250.0, 246.0, 236.0))
    _fill(picture, disc(x, y, radius, steps=32), matrix, ink)
    _fill(picture, disc(x, y, radius * 0.9, steps=32), matrix, plate)
    for stroke in _LETTERS[letter]:
        line = np.asarray(stroke, np.float64) * radius * 0.55
        if matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0] < 0:
            line = line * [-1, 1]  # the garment is flipped, print is not
        scale = float(np.hypot(*matrix[:, 0]))
        _line(picture, line + np.array([x, y]), matrix, ink, max(2, round(radius * scale * 0.26)))  # type: ignore[arg-type]


_LETTERS: Mapping[str, list[list[tuple[float, float]]]] = {
    "S": [[(0.6, -0.75), (0.1, -1.0), (-0.5, -0.8), (-0.5, -0.3), (0.5, 0.25), (0.5, 0.8), (-0.1, 1.0), (-0.65, 0.75)]],
    "A": [[(-0.75, 1.0), (0.0, -1.0), (0.75, 1.0)], [(-0.4, 0.35), (0.4, 0.35)]],
    "X": [[(-0.7, -0.9), (0.7, 0.9)], [(0.7, -0.9), (-0.7, 0.9)]],
    "T": [[(-0.75, -0.9), (0.75, -0.9)], [(0.0, -0.9), (0.0, 1.0)]],
}


def render(rng: Rng, *, shape: str, material: str, colour: str, pattern: str, size: float, logo: bool, letter: str) -> Picture:
    """Draw one product photo -> [H, W, 3] uint8 RGB, sides 180 to 640 pixels, aspect 1:2 to 2:1.

    The keys are those of `SHAPES` and `COLOURS`, a material and a pattern tile of `textures`; `size` runs from 0
    (smallest) to 1. The same stream state gives the same pixels.
    """
    drawing = SHAPES[shape](rng, size)
    width, height, matrix, scale = _frame(drawing, rng)
    tint = np.clip(np.array(COLOURS[colour]) * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8, 3), 0, 255)
    picture = _background(rng, width, height, tint)

    corners = np.concatenate([piece.points for piece in drawing.cloth]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 3, [width, height])
    local = matrix.copy()
    local[:, 2] -= low
    box = (int(high[1] - low[1]), int(high[0] - low[0]))
    mask, tone = np.zeros(box, np.uint8), np.full(box, 128, np.uint8)
    line = max(1, round(0.014 * scale))
    for piece in drawing.cloth:
        _fill(mask, piece.points, local, 255)
        _fill(tone, piece.points, local, 128 * piece.shade)
        _line(tone, np.concatenate([piece.points, piece.points[:1]]), local, 70, line)
    for seam in drawing.seams:
        _line(tone, seam.points, local, min(255, 128 * seam.shade), max(1, round(seam.width * scale)))

    _cast_shadow(rng, picture, drawing, matrix, scale)
    reach = max(3, round(0.16 * scale)) | 1
    round_mask = cv2.addWeighted(cv2.blur(mask, (reach, reach)), 0.55, mask, 0.0, 92)
    surface = _cloth(rng, tone, round_mask, local, tint, material, pattern)  # type: ignore[arg-type]
    window = picture[low[1] : high[1], low[0] : high[0]]
    if material == "leather":
        _topstitch(surface, mask, scale)
    share = mask.astype(np.float32) / 255
    window[:] = cv2.blendLinear(surface, np.ascontiguousarray(window), share, 1 - share)
    for accent in drawing.accents:
        _fill(picture, accent.points, matrix, _TRIM[accent.colour])
        if scale * 0.01 > 0.8:
            outline = np.concatenate([accent.points, accent.points[:1]])
            _line(picture, outline, matrix, tuple(0.55 * c for c in _TRIM[accent.colour]), 1)  # type: ignore[arg-type]
    if logo:
        _emblem(picture, drawing, matrix, letter, dark=bool(tint @ _LUMA < 150))
    return _photograph(rng, picture)


def _cast_shadow(rng: Rng, picture: Picture, drawing: Drawing, matrix: NDArray[np.float64], scale: float) -> None:
    """Darken the ground beside the product; the light comes from one side."""
    height, width = picture.shape[:2]
    small = max(1, round(scale / 60))
    shrunk = (matrix + np.array([[0, 0, 1], [0, 0, 1]]) * (rng.uniform(-0.08, 0.08, (2, 1)) * scale)) / small
    shadow = np.zeros((height // small + 1, width // small + 1), np.uint8)
    for piece in [*drawing.cloth, *drawing.accents]:
        _fill(shadow, piece.points, shrunk, 76)
    soft = max(3, round(rng.uniform(0.05, 0.14) * scale / small)) | 1
    shadow = cv2.resize(cv2.blur(shadow, (soft, soft)), (width, height))  # type: ignore[assignment]
    picture[:] = cv2.multiply(picture, cv2.merge([255 - shadow] * 3), scale=1 / 255)


def _photograph(rng: Rng, picture: Picture) -> Picture:
    """Uneven light, a colour cast, a little blur and sensor noise."""
    height, width = picture.shape[:2]
    light = rng.uniform(0.82, 1.12, (2, 2, 1)) * rng.uniform(0.97, 1.03, 3)
    field = cv2.resize((light * 200).astype(np.uint8), (_LIGHT, _LIGHT))
    if rng.random() < 0.12:  # sun through a window
        x = rng.uniform(-0.3, 1.0)
        beam = np.array([(x, -0.1), (x + 0.35, -0.1), (x + 0.15, 1.1), (x - 0.2, 1.1)]) * _LIGHT
        sun = np.zeros((_LIGHT, _LIGHT, 3), np.uint8)
        _fill(sun, beam, np.eye(2, 3), (44.0, 40.0, 30.0))
        field = cv2.add(field, sun)
    field = cv2.resize(field, (width, height))
    picture = cv2.multiply(picture, field, scale=1 / 200)  # type: ignore[assignment]
    if rng.random() < 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.1))  # type: ignore[assignment]
    strength = rng.uniform(0.02, 0.14)
    grain = textures.grain()
    y, x = rng.integers(0, grain.shape[0] - height), rng.integers(0, grain.shape[1] - width)
    return cv2.addWeighted(picture, 1.0, grain[y : y + height, x : x + width], strength, -128 * strength)  # type: ignore[return-value]


def encode(picture: Picture) -> bytes:
    """JPEG bytes of an RGB picture [H, W, 3] uint8."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()
