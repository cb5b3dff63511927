"""What is known of decoded pixels that differ between two runs, from the photo itself where it lies on this machine.

Runs record a hash of the decoded pixels. The photo is decoded here and changed in ways that decoders are known to differ in:
colour channels in another order, an image moved by a pixel, mirrored or turned, a level brighter or darker. A change whose
hash is the other run's is proven; any other difference stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_bytes, sha256_json
from mlx_phi3v.photo import Photo

from ..runs.prediction import Prediction
from .own_photos import own_photo
from .paired_runs import PairedRuns

_PHOTOS = 3  # tried
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PixelChange:
    """Decoded pixels that differ while the files are the same: in how many joined rows, and how, where that is proven."""

    rows: int
    of: int
    what: str | None  # None: the photos do not lie here, or no change that is tried leads from one to the other
    photos: int  # on how many it is proven
    slight: bool  # whether it is a level or two of brightness

    def sentence(self) -> str:
        """The first line's words."""
        said = f"decoded pixels differ in {self.rows:,} of {self.of:,} rows whose files are the same"
        return said if self.what is None else f"{said}: {self.what} (proven on {self.photos} photos that lie here)"


def find_pixel_change(data: PairedRuns) -> PixelChange | None:
    """How decoded pixels differ; None where no such row is recorded."""
    pixels, files = data.digests("pixels"), data.digests("file")
    differing = np.flatnonzero((pixels[0] != pixels[1]) & (pixels[0] != 0) & (pixels[1] != 0) & (files[0] == files[1]))
    if not len(differing):
        return None
    found = [change for a, b in data.rows(differing[:_PHOTOS].tolist()) if (change := explain_pixels(data, a, b))]
    what = max(set(found), key=found.count) if found else None
    return PixelChange(len(differing), len(data.join.ids), what, len(found), what is not None and " level" in what)


def explain_pixels(data: PairedRuns, a: Prediction, b: Prediction) -> str | None:
    """How one row's decoded pixels differ, where its photo lies here and a known change leads from one to the other."""
    for run, row in ((data.run_a, a), (data.run_b, b)):
        path = own_photo(run, row.image)
        if path is None:
            continue
        try:
            photo = Photo.read(path)
            if sha256_json([photo.sha256]) != row.fingerprints.get("file"):
                continue  # another file by now, or one of several photos
            here = np.asarray(photo.rgb)
        except UserError:
            continue
        hashes = (a.fingerprints.get("pixels"), b.fingerprints.get("pixels"))
        own = sha256_bytes(here.tobytes())
        if own in hashes:
            name, wanted = ("B", hashes[1]) if own == hashes[0] else ("A", hashes[0])
            return next((f"{name} {what}" for what, other in changes(here) if sha256_bytes(other.tobytes()) == wanted), None)
    return None


def changes(pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """(what was done, the changed pixels) for every change that is tried; pixels [height, width, 3], uint8."""
    for order, name in (((2, 1, 0), "BGR"), ((0, 2, 1), "RBG"), ((1, 0, 2), "GRB"), ((1, 2, 0), "GBR"), ((2, 0, 1), "BRG")):
        yield f"has the colour channels in another order ({name})", np.ascontiguousarray(pixels[:, :, order])
    for axis, step, name in ((1, 1, "right"), (1, -1, "left"), (0, 1, "down"), (0, -1, "up")):
        for moved in _moved(pixels, axis, step):
            yield f"is shifted by one pixel ({name})", moved
    for level in (1, -1, 2, -2):
        moved = np.clip(pixels.astype(np.int16) + level, 0, 255).astype(np.uint8)
        word = "brighter" if level > 0 else "darker"
        yield f"is {abs(level)} level{'s' if abs(level) > 1 else ''} {word}", moved
    yield "is mirrored", np.ascontiguousarray(pixels[:, ::-1])
    yield "is upside down", np.ascontiguousarray(pixels[::-1])
    for turns in (1, 2, 3):
        yield f"is turned by {90 * turns} degrees (EXIF orientation)", np.ascontiguousarray(np.rot90(pixels, turns))


def _moved(pixels: Pixels, axis: int, step: int) -> Iterator[Pixels]:
    """The image moved by a pixel: wrapped around, its edge repeated, and with an edge of zeros."""
    moved = np.roll(pixels, step, axis)
    yield moved
    edge = np.take(pixels, [0 if step > 0 else -1], axis)
    for fill in (edge, np.zeros_like(edge), np.full_like(edge, 255)):
        filled = moved.copy()
        filled[tuple(slice(None) if k != axis else slice(0, 1) if step > 0 else slice(-1, None) for k in range(3))] = fill
        yield filled
