"""Near-duplicates: photos that are re-encoded, scaled or slightly cropped copies of one another.

Two steps. A perceptual hash (Zauner's pHash, as in the imagehash package) of the photo and of twelve crops of it finds
candidates; two colour thumbnails, laid over each other at all small crops, decide. The hash alone would either miss
crops or join unrelated photos (docs/data.md has the measured rates).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Left, top, right, bottom as fractions cut off. A copy that was cropped looks like one of these crops of its original.
_CROPS = (
    (0, 0, 0, 0),
    (0.025, 0.025, 0.025, 0.025),
    (0.05, 0.05, 0.05, 0.05),
    (0.05, 0, 0, 0),
    (0, 0.05, 0, 0),
    (0, 0, 0.05, 0),
    (0, 0, 0, 0.05),
    (0.05, 0, 0.05, 0),
    (0, 0.05, 0, 0.05),
    (0.05, 0.05, 0, 0),
    (0, 0.05, 0.05, 0),
    (0.05, 0, 0, 0.05),
    (0, 0, 0.05, 0.05),
)
_SQUARE = 32  # what the hash reads
_REDUCED = 128
_THUMB = 24
_HASH_BYTES = 8 * len(_CROPS)
FINGERPRINT_BYTES = _HASH_BYTES + _THUMB * _THUMB * 3

MAX_DISTANCE = 7  # bits of 64; what the lookup below finds without fail
MIN_CORRELATION = 0.965
_MIN_CONTRAST = 3.0  # standard deviation in levels of 0 to 255; a blank photo is like any other blank photo

_BANDS = 4
_BAND_BITS = 64 // _BANDS


def fingerprint(image: Image.Image) -> bytes:
    """What comparing needs of an RGB photo: 13 hashes of 8 bytes and a thumbnail [24, 24, 3] of uint8."""
    grey = image.convert("L")
    # LANCZOS as imagehash resizes, with Pillow's quick first step for large photos. The crops come from a small copy,
    # or each would read the whole photo.
    small = grey.resize((_REDUCED, _REDUCED), Image.Resampling.LANCZOS, reducing_gap=3.0)
    whole = grey.resize((_SQUARE, _SQUARE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    crops = [small.resize((_SQUARE, _SQUARE), Image.Resampling.BILINEAR, box=_box(crop)) for crop in _CROPS[1:]]
    thumb = image.resize((_THUMB, _THUMB), Image.Resampling.BICUBIC, reducing_gap=3.0)
    hashes = perceptual_hashes(np.stack([np.asarray(square) for square in (whole, *crops)]))
    return hashes.astype("<u8").tobytes() + thumb.tobytes()


def _box(crop: tuple[float, ...]) -> tuple[float, float, float, float]:
    left, top, right, bottom = crop
    return (_REDUCED * left, _REDUCED * top, _REDUCED * (1 - right), _REDUCED * (1 - bottom))


def perceptual_hashes(squares: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """pHash of grey squares [N, 32, 32] -> [N] uint64: which of the 8x8 lowest frequencies are above their median.

    The bits are those of `imagehash.phash`, the first one highest.
    """
    import scipy.fft  # a third of the time that a dry run takes to start

    frequencies = scipy.fft.dct(scipy.fft.dct(squares.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(-1, 64)
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)


class Fingerprints:
    """Fingerprints of N distinct photos, one after the other in a binary file: hashes [N, 13] and thumbnails [N, 24, 24, 3].

    They are read as they are asked for; mapping the file would let it fill the memory.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = file.seek(0, os.SEEK_END) // FINGERPRINT_BYTES

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        self._file.seek(start * FINGERPRINT_BYTES)
        data = self._file.read((min(stop, self.count) - start) * FINGERPRINT_BYTES)
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, FINGERPRINT_BYTES)

    def hashes(self, start: int, stop: int) -> NDArray[np.uint64]:
        """Hashes of photos start..stop [stop - start, 13]."""
        return np.ascontiguousarray(self._read(start, stop)[:, :_HASH_BYTES]).view("<u8").astype(np.uint64)

    def plain_hashes(self, block: int) -> NDArray[np.uint64]:
        """The hash of each whole photo [N], read `block` photos at a time."""
        blocks = [self.hashes(start, start + block)[:, 0].copy() for start in range(0, self.count, block)]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)

    def contrasts(self, block: int) -> NDArray[np.float32]:
        """The standard deviation over each thumbnail, of its liveliest channel, in levels of 0 to 255 [N]."""
        found = [np.zeros(0, np.float32)]
        for start in range(0, self.count, block):
            thumbs = self._read(start, start + block)[:, _HASH_BYTES:].reshape(-1, _THUMB**2, 3)
            found.append(thumbs.std(axis=1, dtype=np.float32).max(axis=1))
        return np.concatenate(found)

    def thumb(self, index: int) -> NDArray[np.float32]:
        """The thumbnail of one photo [24, 24, 3]."""
        return self._read(index, index + 1)[0, _HASH_BYTES:].reshape(_THUMB, _THUMB, 3).astype(np.float32)


def near_pairs(fingerprints: Fingerprints, block: int = 1024) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i != j, of near-duplicates. A pair may come twice.

    Memory: 28 bytes a photo. Time grows with the number of photos times those that share a quarter of a hash.
    """
    contrasts = fingerprints.contrasts(block)
    index = _BandIndex(fingerprints.plain_hashes(block))
    aligner = Aligner()
    for start in range(0, fingerprints.count, block):
        hashes = fingerprints.hashes(start, start + block)
        seen: set[tuple[int, int]] = set()
        for crop in range(len(_CROPS)):
            queries, found = index.search(hashes[:, crop])
            for query, other in zip((queries + start).tolist(), found.tolist()):
                pair = (query, other)
                if query == other or pair in seen or min(contrasts[query], contrasts[other]) < _MIN_CONTRAST:
                    continue
                seen.add(pair)
                if aligner.correlation(fingerprints.thumb(query), fingerprints.thumb(other)) >= MIN_CORRELATION:
                    yield pair


class _BandIndex:
    """Hashes within MAX_DISTANCE bits of a query (multi-index hashing, Norouzi et al. 2012).

    64 bits in 4 bands: 7 differing bits leave one band with at most one, so looking up each band and its 16
    one-bit neighbours finds every such hash.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.hashes = hashes.astype(np.uint64)
        self._order, self._starts = [], []
        for band in range(_BANDS):
            values = self._band(self.hashes, band)
            self._order.append(np.argsort(values, kind="stable").astype(np.uint32))
            counts = np.bincount(values, minlength=1 << _BAND_BITS)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]))

    @staticmethod
    def _band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
        return ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)

    def search(self, queries: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices into `queries` and into the indexed hashes, pairwise."""
        found_queries, found = [], []
        flips = [0, *(1 << bit for bit in range(_BAND_BITS))]
        for band, flip in itertools.product(range(_BANDS), flips):
            values = self._band(queries, band) ^ flip
            starts, stops = self._starts[band][values], self._starts[band][values + 1]
            lengths = stops - starts
            owners = np.repeat(np.arange(len(queries)), lengths)
            offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            candidates = self._order[band][np.repeat(starts, lengths) + offsets]
            near = np.bitwise_count(self.hashes[candidates] ^ queries[owners]) <= MAX_DISTANCE
            found_queries.append(owners[near])
            found.append(candidates[near].astype(np.int64))
        return np.concatenate(found_queries), np.concatenate(found)


class Aligner:
    """The best correlation of two thumbnails over crops of up to 6 % a side of either.

    With R_k the matrix that samples 16 points between the k-th pair of ends, a crop of A is R_k A R_l'. Its product with
    the other thumbnail, its sum and its square sum are bilinear in R_k and R_l, so all 256 crops come from a few small
    matrix products.
    """

    _STEPS = (0.0, 0.02, 0.04, 0.06)
    _SIZE = 16

    def __init__(self) -> None:
        self._samplers = np.stack([self._sampler(a, b) for a in self._STEPS for b in self._STEPS])  # R [16, 16, 24]
        count = len(self._samplers)
        self._flat = self._samplers.reshape(count, -1)  # [16, 16 * 24]
        self._squares = (self._samplers.transpose(0, 2, 1) @ self._samplers).reshape(count, -1)  # R'R [16, 24 * 24]
        self._sums = self._samplers.sum(axis=1)  # [16, 24]

    def _sampler(self, before: float, after: float) -> NDArray[np.float32]:
        """The matrix [16, 24] that samples 16 points of 24 pixels, linearly, with the ends cut off."""
        points = (before + (np.arange(self._SIZE) + 0.5) / self._SIZE * (1 - before - after)) * _THUMB - 0.5
        low = np.clip(np.floor(points).astype(int), 0, _THUMB - 1)
        high = np.clip(low + 1, 0, _THUMB - 1)
        share = (points - np.floor(points)).astype(np.float32)
        matrix = np.zeros((self._SIZE, _THUMB), np.float32)
        rows = np.arange(self._SIZE)
        matrix[rows, low] += 1 - share
        matrix[rows, high] += share
        return matrix

    def correlation(self, one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
        """Pearson correlation of all three channels together, in [-1, 1], at the best alignment. Inputs [24, 24, 3]."""
        # Correlation does not see a common offset, but small numbers keep its sums exact.
        offset = one.mean()
        one, two = (one - offset).transpose(2, 0, 1), (two - offset).transpose(2, 0, 1)
        return max(self._best(one, two), self._best(two, one))

    def _best(self, cropped: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
        plain = self._samplers[0]
        target = plain @ whole @ plain.T  # [3, 16, 16]
        target = target - target.mean()
        rows = self._samplers[:, None] @ cropped[None]  # R_k A [16, 3, 16, 24]
        stacked = rows.reshape(len(rows), -1, _THUMB)  # [16, 3 * 16, 24]
        products = (target.reshape(-1, self._SIZE).T @ stacked).reshape(len(rows), -1) @ self._flat.T  # [16, 16]
        squares = (stacked.transpose(0, 2, 1) @ stacked).reshape(len(rows), -1) @ self._squares.T
        sums = stacked.sum(axis=1) @ self._sums.T
        variance = squares - sums**2 / target.size
        return float((products / np.sqrt(np.maximum(variance * (target**2).sum(), 1e-6))).max())
