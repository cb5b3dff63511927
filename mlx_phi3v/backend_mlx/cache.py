"""The KV cache of a batch in MLX. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..kv_cache import BatchCache, room


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
        """See `kv_cache.LayerCache`."""
        self.length -= padding
        if self.keys is not None and self.values is not None:
            index = mx.array(rows)
            self.keys, self.values = self.keys[index][:, :, padding:], self.values[index][:, :, padding:]

    def join(self, other: KVCache, padding: tuple[int, int]) -> None:
        """See `kv_cache.LayerCache`."""
        if self.keys is not None and self.values is not None and other.keys is not None and other.values is not None:
            held = self.length, other.length
            self.keys = joined(self.keys, other.keys, held, padding)
            self.values = joined(self.values, other.values, held, padding)
            self.length += padding[0]
            other.keys = other.values = None  # what is copied needs no room any more


def joined(first: mx.array, second: mx.array, held: tuple[int, int], padding: tuple[int, int]) -> mx.array:
    """The rows of two arrays below each other, the `held` tokens of each behind its padding of zeros."""
    rows, end = len(first), held[0] + padding[0]
    both = mx.zeros((rows + len(second), first.shape[1], room(end), first.shape[3]), first.dtype)
    both[:rows, :, padding[0] : end] = first[:, :, : held[0]]
    both[rows:, :, padding[1] : end] = second[:, :, : held[1]]
    return both


def with_room(old: mx.array | None, new: mx.array, tokens: int) -> mx.array:
    """`old` where it holds that many tokens; else a larger array that begins as `old` does, of the kind of `new`."""
    if old is not None and old.shape[2] >= tokens:
        return old
    b, heads, _, d = new.shape
    held = 0 if old is None else old.shape[2]
    more = mx.zeros((b, heads, room(tokens) - held, d), new.dtype)
    return more if old is None else mx.concatenate([old, more], axis=2)


Cache = BatchCache[KVCache]


def prefill_mask(valid: np.ndarray) -> mx.array | str:
    """Mask of left-padded prompts, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    if valid.all():
        return "causal"
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    return mx.array(causal & (valid[:, None, None, :] | ~valid[:, None, :, None]))
