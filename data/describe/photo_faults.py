"""Photos that teach little: dark, washed out, blurred, without information, oddly shaped, or with the product very small.

The first five measures and their thresholds are cleanvision's (cleanlab, version 0.3, `image_property.py` and its default
parameters; https://github.com/cleanlab/cleanvision), computed here on photos of at most 256 pixels a side. The last one is
ours. They are flags to look at, not verdicts: a black dress on black is dark, and a plain scarf has little information.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter, ImageStat

SIDE = 256  # pixels of the longer side that photos are looked at with
_BLUR_SIDE = 64
_TINY = 0.02  # share of the photo that the product's box takes
_DIFFERS = 24  # levels of 256 by which a pixel of a product differs from the border around it

FAULTS = {
    "dark": "99 % of the pixels are darker than 0.32 of full brightness",
    "washed out": "95 % of the pixels are brighter than 0.95 of full brightness",
    "blurred": "few edges at 64 pixels, and few levels of grey",
    "low information": "entropy of less than 3 bits",
    "odd shape": "one side is less than 0.35 of the other",
    "tiny content": "all that differs from the border is in less than 2 % of the photo",
}


def photo_faults(small: Image.Image, size: tuple[int, int]) -> tuple[str, ...]:
    """The names of `FAULTS` that a photo has: `small` as RGB of at most `SIDE` pixels a side, `size` its own."""
    shape = min(size[0] / size[1], size[1] / size[0])
    bright = _brightness(small)
    found = {
        "dark": float(np.percentile(bright, 99)) < 0.32,
        "washed out": float(np.percentile(bright, 5)) > 0.95,
        "blurred": _sharpness(small) < 0.29,
        "low information": 0.1 * small.entropy() < 0.3,
        "odd shape": shape < 0.35,
        "tiny content": _content(small) < _TINY,
    }
    return tuple(name for name, has in found.items() if has)


def _brightness(image: Image.Image) -> np.ndarray:
    """Perceived brightness of each pixel, 0 to 1: sqrt(0.241 R^2 + 0.691 G^2 + 0.068 B^2) / 255."""
    red, green, blue = np.moveaxis(np.asarray(image, np.float64), 2, 0)
    bright: np.ndarray = np.sqrt(0.241 * red**2 + 0.691 * green**2 + 0.068 * blue**2) / 255
    return bright


def _sharpness(image: Image.Image) -> float:
    """0 to 1: how much the edges vary, plus how unequally grey levels are used where that is more than 0.18."""
    ratio = max(image.size) / _BLUR_SIDE
    if ratio > 1:
        image = image.resize((max(int(image.width // ratio), 1), max(int(image.height // ratio), 1)))
    grey = image.convert("L")
    edges = math.sqrt(ImageStat.Stat(grey.filter(ImageFilter.FIND_EDGES)).var[0])
    levels = 1 - math.exp(-0.01 * float(np.std(grey.histogram())))
    return min(1 - math.exp(-0.01 * edges) + (levels if levels > 0.18 else 0.0), 1.0)


def _content(image: Image.Image) -> float:
    """Share of the photo inside the box around all pixels that differ from its border; 1 where the border is not plain."""
    pixels = np.asarray(image, np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    if (np.abs(border - colour).max(axis=1) > _DIFFERS).mean() > 0.02:
        return 1.0
    rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) > _DIFFERS)
    if not len(rows):
        return 0.0
    return float((np.ptp(rows) + 1) * (np.ptp(columns) + 1) / (pixels.shape[0] * pixels.shape[1]))
