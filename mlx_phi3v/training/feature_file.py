"""A photo's cached features on disk: one safetensors file, which is believed only where it is whole and of that photo.

Its metadata holds the photo's hash, the cache's key and a checksum of the tensors' bytes (XXH3: faster than the disk).
Files of versions before the checksum are listed in `SIGNED`, where they stood when a version with it first opened their
folder. Those are read too, as far as they can be checked: dtype, shape, grid and finite numbers.
"""

from __future__ import annotations

import contextlib
import math
import stat
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from safetensors.numpy import save

from ..crops import encoded_crops
from ..files import atomic_path, sweep

SIGNED = "checksums"  # a file in a cache's folder: every feature file beside it has a checksum, but those it lists
_HEADER_BYTES = 512  # it has some 350
_STORED: dict[str, tuple[str, type[np.generic]]] = {  # numpy has no bfloat16: it is the upper half of an fp32
    "float32": ("F32", np.float32), "float16": ("F16", np.float16), "bfloat16": ("U16", np.uint16),
}  # fmt: skip


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    features: _Entry
    grid: _Entry
    metadata: dict[str, str] | None = msgspec.field(default=None, name="__metadata__")


@dataclass(frozen=True)
class FeatureFolder:
    """The feature files of one cache key.

    dtype: of the backend, in which the features are exact. patches: features of one crop. width: of a feature.
    """

    folder: Path
    dtype: str
    num_crops: int
    patches: int
    width: int

    def open(self) -> FeatureFolder:
        """Make the folder where it is missing, and remove what killed processes left in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        # Two processes may do so at once: each before its first feature.
        if not (self.folder / SIGNED).exists():
            names = sorted(self._unsigned)
            # A folder of an earlier version may be read-only; a new one must take files.
            with contextlib.suppress(*[OSError] * bool(names)), atomic_path(self.folder / SIGNED, shared=True) as temporary:
                text = "\n".join(("Each file here holds a checksum of its tensors, but for:", *names, ""))
                temporary.write_text(text, encoding="utf-8")
        return self

    @cached_property
    def _unsigned(self) -> frozenset[str]:
        """The names of files without a checksum that are read: those that `SIGNED` lists."""
        try:
            return frozenset((self.folder / SIGNED).read_text(encoding="utf-8").splitlines()[1:])
        except FileNotFoundError:
            return frozenset(path.name for path in self._of_before())
        except (OSError, ValueError):
            return frozenset()

    def _of_before(self) -> list[Path]:
        """The files of a folder that only versions before the checksum wrote; none where any file has one."""
        files = list(self.folder.glob("*.safetensors"))
        for path in files:
            try:
                with open(path, "rb") as file:
                    start = file.read(_HEADER_BYTES)
            except OSError:  # another process has just replaced it
                return []
            if b"__metadata__" in start:
                return []
        return files

    def path(self, photo: str) -> Path:
        """The file of the photo with this SHA-256."""
        return self.folder / f"{photo}.safetensors"

    def size(self, photo: str) -> int:
        """Bytes of the photo's file; 0 where there is none."""
        try:
            return self.path(photo).stat().st_size
        except OSError:
            return 0

    def bytes_of(self, features: np.ndarray) -> int:
        """About as many bytes as their file will take, or a few more."""
        return features.size * np.dtype(_STORED[self.dtype][1]).itemsize + _HEADER_BYTES

    def write(self, photo: str, features: np.ndarray, grid: tuple[int, int]) -> int:
        """Store features, fp32 [crops * patches + 2, width]; the bytes they take. Raises OSError where the disk is full."""
        packed = pack(features, self.dtype)
        tensors = {"features": packed, "grid": np.array(grid)}
        data = save(tensors, self._metadata(photo, packed, tensors["grid"]))
        with atomic_path(self.path(photo), shared=True) as temporary:
            temporary.write_bytes(data)
        return len(data)

    def read(self, photo: str) -> tuple[np.ndarray, tuple[int, int]] | None:
        """(features, grid) as they were stored; None where they are not, or where the file is not what was written."""
        try:
            path = self.path(photo)
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or not 8 < status.st_size <= self._most_bytes():
                return None
            return self._decode(photo, path.read_bytes())
        except (OSError, ValueError, struct.error, msgspec.MsgspecError):
            return None

    def _decode(self, photo: str, data: bytes) -> tuple[np.ndarray, tuple[int, int]] | None:
        (length,) = struct.unpack_from("<Q", data)
        header = msgspec.json.decode(data[8 : 8 + length], type=_Header)
        begin = 8 + length
        features = _tensor(data, begin, header.features, *_STORED[self.dtype])
        grid = _tensor(data, begin, header.grid, "I64", np.int64)
        if features is None or grid is None or grid.shape != (2,) or begin + features.nbytes + grid.nbytes != len(data):
            return None
        h, w = (int(number) for number in grid)
        if not (1 <= h <= self.num_crops and 1 <= w <= self.num_crops and h * w <= self.num_crops):
            return None
        if features.shape != (encoded_crops((h, w)) * self.patches + 2, self.width):
            return None
        unpacked = unpack(features, self.dtype)
        if header.metadata is None:
            believed = self.path(photo).name in self._unsigned and bool(np.isfinite(unpacked).all())
        else:  # features are finite where they are stored, and these are what was stored
            believed = header.metadata == self._metadata(photo, features, grid)
        return (unpacked, (h, w)) if believed else None

    def _metadata(self, photo: str, features: np.ndarray, grid: np.ndarray) -> dict[str, str]:
        checksum = xxhash.xxh3_64(np.ascontiguousarray(features).data)
        checksum.update(grid.astype("<i8").data)
        return {"photo": photo, "cache": self.folder.name, "xxh3_64": checksum.hexdigest()}

    def _most_bytes(self) -> int:
        return ((self.num_crops + 1) * self.patches + 2) * self.width * 4 + _HEADER_BYTES


def _tensor(data: bytes, begin: int, entry: _Entry, name: str, dtype: type[np.generic]) -> np.ndarray | None:
    """A view of one tensor in the bytes of a file; None where the entry does not fit them."""
    start, end = entry.data_offsets
    count = math.prod(entry.shape)
    if entry.dtype != name or min(entry.shape, default=0) < 0 or start < 0 or end > len(data) - begin:
        return None
    if end - start != count * np.dtype(dtype).itemsize:
        return None
    return np.frombuffer(data, dtype, count, begin + start).reshape(entry.shape)


def pack(features: np.ndarray, dtype: str) -> np.ndarray:
    """fp32 values that came from `dtype`, without loss in its own width; bf16 as the upper half of the bits."""
    if dtype == "bfloat16":
        return (features.view(np.uint32) >> 16).astype(np.uint16)
    return features.astype(dtype)


def unpack(packed: np.ndarray, dtype: str) -> np.ndarray:
    """The inverse of `pack`."""
    if dtype == "bfloat16":
        bits = packed.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return packed.astype(np.float32)
