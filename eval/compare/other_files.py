"""Photo files that differ between two runs of the same rows: resized, encoded again, or other photos, where they lie here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import Photo

from ..runs.prediction import Prediction
from .own_photos import own_photo
from .paired_runs import PairedRuns

_PHOTOS = 5  # looked at
_SAME_SIZE = 0.005  # of the scale
_OTHER_LEVELS = 25.0  # of 255: what encoding a photo again, even badly, does not move it by in the mean


def other_files_remarks(data: PairedRuns) -> Iterator[str]:
    """The sentence, where rows of the two runs record different photo files."""
    left, right = data.digests("file")
    differing = np.flatnonzero((left != right) & (left != 0) & (right != 0))
    if not len(differing):
        return
    found = [what for a, b in data.rows(differing[:_PHOTOS].tolist()) if (what := _difference(data, a, b))]
    said = f"the photo files differ in {len(differing):,} of {len(left):,} rows"
    if found:
        most = max(set(found), key=found.count)
        said += f": {most} ({found.count(most)} of the {len(found)} photos looked at)"
    yield said


def _difference(data: PairedRuns, a: Prediction, b: Prediction) -> str | None:
    """How B's photo of a row differs from A's; None where one of them does not lie here."""
    path_a, path_b = own_photo(data.run_a, a.image), own_photo(data.run_b, b.image)
    if path_a is None or path_b is None:
        return None
    try:
        one, other = Photo.read(path_a).rgb, Photo.read(path_b).rgb
    except UserError:
        return None
    if one.size == other.size:
        levels = float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())
        if not levels:
            return "they hold the same pixels"
        return "B's are of the same size, encoded again" if levels < _OTHER_LEVELS else "they show other things"
    wide, high = (y / x for x, y in zip(one.size, other.size))
    if abs(wide / high - 1) < _SAME_SIZE * 4:
        return f"B's are {round(float(np.sqrt(wide * high)), 2):g} times as wide and high as A's"
    turned = abs(wide * high - 1) < _SAME_SIZE and one.size == other.size[::-1]
    return "B's are turned by 90 degrees" if turned else "B's are cut or padded to another shape"
