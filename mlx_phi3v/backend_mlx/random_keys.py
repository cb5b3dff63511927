"""Random numbers that can go back to where they stood, without a wait: MLX's own state can be read and seeded, but not set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


class RandomKeys:
    """A sequence of keys, the same as MLX draws after `mx.random.seed`. position: where it stands, uint32 [2]."""

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, value: int) -> None:
        """Begin again."""
        self.position = mx.random.key(value)

    def next(self) -> mx.array:
        """A key for one call of `mx.random`."""
        self.position, key = mx.random.split(self.position)
        return key

    @contextmanager
    def standing_at(self, position: mx.array) -> Iterator[None]:
        """Draw from there on; afterwards go on where the sequence stood before."""
        before, self.position = self.position, position
        try:
            yield
        finally:
            self.position = before


KEYS = RandomKeys()  # of dropout
