"""How often data.near_duplicates misses a copy and joins strangers, on any photos.

python scripts/measure/near_duplicate_rates.py --photos ../shared/photos runs/sample/images
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.ingest.near_duplicates import MAX_DISTANCE, MIN_CORRELATION, Aligner, Fingerprints, fingerprint, near_pairs
from mlx_phi3v.photo import open_photo


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """`image` without these fractions of its sides."""
    width, height = image.size
    return image.crop((int(width * left), int(height * top), int(width * (1 - right)), int(height * (1 - bottom))))


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """`image` through a JPEG of this quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return open_photo(buffer.getvalue())


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 40": lambda image: encoded(image, 40),
    "half size": lambda image: image.resize((max(8, image.width // 2), max(8, image.height // 2))),
    "cropped 2 % all round": lambda image: cropped(image, 0.02, 0.02, 0.02, 0.02),
    "cropped 3 % all round, JPEG 70": lambda image: encoded(cropped(image, 0.03, 0.03, 0.03, 0.03), 70),
    "cropped 5 % on one side": lambda image: cropped(image, 0.05, 0, 0, 0),
    "cropped 5 % all round": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "cropped 4 % at a corner": lambda image: cropped(image, 0.04, 0.04, 0, 0),
    "cropped 1, 4, 3, 2 %": lambda image: cropped(image, 0.01, 0.04, 0.03, 0.02),
}


def is_found(one: bytes, two: bytes, aligner: Aligner) -> bool:
    """Whether two fingerprints are taken for the same photo, as `near_pairs` would."""
    fingerprints = Fingerprints(io.BytesIO(one + two))
    first, second = fingerprints.hashes(0, 2)
    distance = min(np.bitwise_count(first ^ second[0]).min(), np.bitwise_count(second ^ first[0]).min())
    return (
        bool(distance <= MAX_DISTANCE) and aligner.correlation(fingerprints.thumb(0), fingerprints.thumb(1)) >= MIN_CORRELATION
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rates as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photos, all different")
    parser.add_argument("--every", type=int, default=4, help="copy one photo of so many (default: 4)")
    settings = parser.parse_args(argv)
    suffixes = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for folder in settings.photos for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    images = [open_photo(path) for path in paths]
    fingerprints = [fingerprint(image) for image in images]
    joined = {tuple(sorted(pair)) for pair in near_pairs(Fingerprints(io.BytesIO(b"".join(fingerprints))))}
    aligner = Aligner()
    chosen = range(0, len(images), settings.every)
    missed = {
        name: sum(not is_found(fingerprints[k], fingerprint(copy(images[k])), aligner) for k in chosen) / len(chosen)
        for name, copy in COPIES.items()
    }
    report = {
        "photos": len(images),
        "pairs": len(images) * (len(images) - 1) // 2,
        "pairs_joined": [[str(paths[one]), str(paths[two])] for one, two in sorted(joined)],
        "copies_of_each_kind": len(chosen),
        "share_missed": {name: round(share, 4) for name, share in missed.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
