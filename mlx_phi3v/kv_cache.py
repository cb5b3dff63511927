"""What a batch's KV cache remembers of its rows, whatever framework holds the keys and values."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import numpy as np

STEP = 256  # tokens: room is made for so many at a time, so that a token costs no copy of all before it


class LayerCache(Protocol):
    """Keys and values of one layer for a left-padded batch."""

    def filter(self, rows: list[int], padding: int = 0) -> None:
        """Drop all other rows, and the first `padding` tokens of those that stay."""

    def join(self, other: Any, padding: tuple[int, int]) -> None:
        """Put the rows of `other` behind these; of both, so many tokens are padding to the left of what is there."""


Layer = TypeVar("Layer", bound=LayerCache)


class BatchCache(Generic[Layer]):
    """KV cache of a batch. valid: bool [B, S], False on padding; lengths: int64 [B], tokens of each row so far."""

    def __init__(self, layers: list[Layer], valid: np.ndarray) -> None:
        self.layers = layers
        self.valid = valid
        self.lengths = valid.sum(1)

    def append(self) -> None:
        """One token more in every row; its keys and values are the layers' to add."""
        self.valid = np.concatenate([self.valid, np.ones((len(self.valid), 1), bool)], axis=1)
        self.lengths = self.lengths + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows, and the columns that only pad those that stay."""
        padding = int(self.valid[rows].any(0).argmax())
        self.valid = self.valid[rows, padding:]
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.filter(rows, padding)

    def join(self, other: BatchCache[Layer]) -> None:
        """Put the rows of another cache behind these; the shorter texts get padding on the left."""
        width = max(self.valid.shape[1], other.valid.shape[1])
        padding = width - self.valid.shape[1], width - other.valid.shape[1]
        valid = [np.pad(cache.valid, ((0, 0), (more, 0))) for cache, more in zip((self, other), padding)]
        self.valid = np.concatenate(valid)
        self.lengths = np.concatenate([self.lengths, other.lengths])
        for layer, joining in zip(self.layers, other.layers):
            layer.join(joining, padding)


def room(tokens: int) -> int:
    """Tokens to make room for where `tokens` are needed."""
    return -(-tokens // STEP) * STEP
