"""Photo features cached on disk: the tower encodes a photo once, as long as nothing on the image side changes.

The features of a photo are one file in FOLDER/<key>/ (`feature_file`), named by the SHA-256 of the photo's bytes. The key is a
hash of all else that features depend on: weights and adapter of the image side, backend, dtype, num_crops, `VERSION`.
Features made with anything else are under another key, so a stale feature is never read. A file that is corrupt, or another
photo's, is made again. Any number of processes may share a folder.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..adapters import AdapterArgs
from ..backend import Backend
from ..batches import Example
from ..checkpoint.fingerprint import tensors_digest
from ..checkpoint.layout import VISION
from ..config import CROP_SIZE
from ..crops import ProcessedImage, process_image
from ..errors import UserError
from ..files import sha256_bytes, sha256_json
from ..overflow import not_finite
from ..photo import Photo
from ..progress import note
from ..system_errors import os_sentence
from .feature_file import FeatureFolder

VERSION = 1  # raise it when photos are cropped, encoded or stored in another way


class FeatureCache:
    """The cached features of photos.

    folder: may be shared by any number of models and runs. limit_gb: gigabytes (1e9 bytes) that its files may take; when
    they are full, the tower runs for every photo that is not cached. adapter: the one that is set on the backend.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        num_crops: int,
        limit_gb: float,
        adapter: tuple[AdapterArgs, dict[str, np.ndarray]] | None = None,
    ) -> None:
        self.backend, self.num_crops, self.limit = backend, num_crops, limit_gb * 1e9
        made_by = {
            "version": VERSION,
            "backend": backend.name,
            "dtype": backend.dtype,
            "num_crops": num_crops,
            "vision": asdict(backend.config.vision),
            "weights": tensors_digest(backend.folder, VISION),
            "adapter": _adapter_digest(adapter),
        }
        config = backend.config
        self.folder = folder / sha256_json(made_by)[:32]
        self.files = FeatureFolder(
            self.folder, backend.dtype, num_crops, config.vision.merged_grid**2, config.hidden_size
        ).open()
        self.bytes = sum(map(_size, folder.rglob("*.safetensors")))
        self.found = self.made = self.corrupt = 0
        self.full = False
        self.failed: str | None = None  # why nothing more is cached
        self._lock = threading.Lock()

    def image(self, photo: Photo, *, with_crops: bool = False) -> ProcessedImage:
        """The photo with its features where they are cached, else with its crops; or always with its crops.

        A photo whose features are cached is not decoded. May be called by several threads. Raises PhotoError for a
        photo that cannot be used.
        """
        cached = self._load(photo.sha256)
        if cached is not None:
            with self._lock:
                self.found += 1
            if not with_crops:
                return cached
        crops = process_image(photo.rgb, self.num_crops)
        return replace(crops, key=photo.sha256, features=cached.features if cached else None)

    def fill(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the features of all their photos; features that are not cached are computed, and cached."""
        return [replace(e, images=tuple(map(self._fill, e.images))) for e in examples]

    def _fill(self, image: ProcessedImage) -> ProcessedImage:
        if image.features is not None:
            return image
        cached = self._load(image.key) if image.key else None  # the same photo may have been in the batch before
        if cached is not None:
            self.found += 1
            return replace(image, features=cached.features)
        # One photo at a time: cached features do not depend on a photo's neighbours in a batch.
        features = self.backend.vision_features(image.distinct_crops)
        if not np.isfinite(features).all():
            raise UserError(not_finite("a photo's features", self.backend.dtype))
        self.made += 1
        if image.key:
            self._store(image.key, features, image.grid)
        return replace(image, features=features)

    def _store(self, key: str, features: np.ndarray, grid: tuple[int, int]) -> None:
        """Cache the features, within the limit. A disk that takes no more ends the caching, not the run: it says so once."""
        before = self.files.size(key)  # of a file that was not what was written
        self.corrupt += bool(before)
        if self.failed or self.bytes - before + self.files.bytes_of(features) > self.limit:
            self.full = self.full or not self.failed
            return
        try:
            self.bytes += self.files.write(key, features, grid) - before
        except OSError as error:
            self.failed = os_sentence(error) or f"{self.files.path(key)} cannot be written: {error}"
            note(f"--feature-cache: {self.failed}; the run goes on and encodes such photos each time")

    def _load(self, key: str) -> ProcessedImage | None:
        found = self.files.read(key)
        if found is None:  # not cached, or not what was written
            return None
        return ProcessedImage(np.zeros((0, 3, CROP_SIZE, CROP_SIZE), np.float32), found[1], key, found[0])

    def summary(self) -> str:
        """A sentence: photos encoded and found in the cache, and the size of its files."""
        room = f"; {self.limit / 1e9:g} GB are full, so further photos are encoded each time" if self.full else ""
        again = f" ({self.corrupt} of them again, their files were corrupt)" if self.corrupt else ""
        size = f"{self.bytes / 1e9:.2f} GB in {self.folder.parent}"
        return f"photo features: {self.made} encoded{again}, {self.found} found, {size}{room}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has just replaced or removed it
        return 0


def _adapter_digest(adapter: tuple[AdapterArgs, dict[str, np.ndarray]] | None) -> str | None:
    """A hash of the part of an adapter that changes features; None if it does not train the image side."""
    config, tensors = adapter or (None, {})
    ours = {name: sha256_bytes(value.tobytes()) for name, value in tensors.items() if VISION in name}
    if not ours or config is None:
        return None
    # Settings that later versions added count where they are used: features cached before them are still found.
    values = {name: value for name, value in asdict(config).items() if value or name not in _ADDED}
    return sha256_json([ours, values])


_ADDED = ("exclude_modules", "layers_to_transform", "layers_pattern")
