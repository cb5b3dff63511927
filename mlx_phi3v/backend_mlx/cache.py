"""The KV cache of a batch in MLX. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

STEP = 256  # tokens: room is made for so many at a time, so that a token costs no copy of all before it


class KVCache:
    """Keys and values of one layer for a left-padded batch."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None  # [B, heads, room, D], of which `length` are filled
        self.values: mx.array | None = None
        self.length = 0

    def size(self) -> int:
        """S."""
        return self.length

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        start, self.length = self.length, self.length + k.shape[2]
        self.keys = with_room(self.keys, k, self.length)
        self.values = with_room(self.values, v, self.length)
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def filter(self, rows: list[int], padding: int = 0) -> None:
        """Drop all other rows, and the first `padding` tokens of those that stay."""
        self.length -= padding
        if self.keys is not None and self.values is not None:
            index = mx.array(rows)
            self.keys, self.values = self.keys[index][:, :, padding:], self.values[index][:, :, padding:]


def with_room(old: mx.array | None, new: mx.array, tokens: int) -> mx.array:
    """`old` where it holds that many tokens; else a larger array that begins as `old` does, of the kind of `new`."""
    if old is not None and old.shape[2] >= tokens:
        return old
    b, heads, _, d = new.shape
    held = 0 if old is None else old.shape[2]
    more = mx.zeros((b, heads, -(-tokens // STEP) * STEP - held, d), new.dtype)
    return more if old is None else mx.concatenate([old, more], axis=2)


@dataclass
class Cache:
    """KV cache of a batch. valid: bool [B, S], False on padding; lengths: int64 [B], tokens of each row so far."""

    layers: list[KVCache]
    valid: np.ndarray
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = self.valid.sum(1)

    def append(self) -> None:
        """One token more in every row; its keys and values are the layers' to add."""
        self.valid = np.concatenate([self.valid, np.ones((len(self.valid), 1), bool)], axis=1)
        self.lengths = self.lengths + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows. MLX: and the columns that only pad those that stay."""
        padding = int(self.valid[rows].any(0).argmax())
        self.valid = self.valid[rows, padding:]
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.filter(rows, padding)


def prefill_mask(valid: np.ndarray) -> mx.array | str:
    """Mask of left-padded prompts, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    if valid.all():
        return "causal"
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    return mx.array(causal & (valid[:, None, None, :] | ~valid[:, None, :, None]))
