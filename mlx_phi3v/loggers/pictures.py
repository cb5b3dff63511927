"""Pictures of answers for loggers: photos side by side, small, and with the answer written below."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..text import printable

SIDE = 336  # pixels, the most of a photo's longer side
_LINE, _LETTERS, _FONT = 16, 52, 13


def side_by_side(photos: Sequence[np.ndarray], side: int = SIDE) -> np.ndarray | None:
    """RGB photos, uint8 [H, W, 3] each, shrunk to `side` pixels and put into one picture; None where there are none."""
    small = []
    for photo in photos:
        image = Image.fromarray(np.ascontiguousarray(photo))
        image.thumbnail((side, side))
        small.append(image)
    if not small:
        return None
    joined = Image.new("RGB", (sum(image.width for image in small), max(image.height for image in small)), "white")
    left = 0
    for image in small:
        joined.paste(image, (left, 0))
        left += image.width
    return np.asarray(joined)


def with_caption(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The picture, uint8 [H, W, 3], with lines of text below."""
    wrapped = [part for line in lines for part in textwrap.wrap(printable(line), _LETTERS)[:3]]
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (max(width, SIDE + 64), height + _LINE * len(wrapped) + 8), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    for number, line in enumerate(wrapped):
        draw.text((4, height + 4 + number * _LINE), line, fill="black", font=font)
    return np.asarray(canvas)


def as_png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
