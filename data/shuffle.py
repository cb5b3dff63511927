"""A seeded order of any number of rows that is computed, not stored: the same for one reader or for many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

_ROUNDS = 6


class Shuffle(Sequence[int]):
    """A permutation of 0..length-1 in constant memory. Reader k of n takes `shuffle[k::n]`; together they take all.

    A balanced Feistel network over the next even number of bits, walked until it lands inside the range (Black and
    Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Meant for mixing rows, not for secrets.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0) -> None:
        self.length = length
        self._half = max(1, (max(length - 1, 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * k : 8 * k + 8], "big") for k in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:  # type: ignore[override]
        """The row at `place` of the shuffled order."""
        if not -self.length <= place < self.length:
            raise IndexError(place)
        row = place % self.length
        while (row := self._mix(row)) >= self.length:
            pass
        return row

    def reader(self, number: int, readers: int) -> Iterator[int]:
        """The rows of one of so many readers, in order."""
        return (self[place] for place in range(number, self.length, readers))

    def _mix(self, value: int) -> int:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            # Multiply and fold, as in splitmix64 (Steele, Lea and Flood 2014).
            word = ((right ^ key) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            word = ((word ^ (word >> 29)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((word ^ (word >> 32)) & self._mask)
        return (left << self._half) | right
