"""The KV cache of a batch in MLX. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..kv_cache import KV_GROUP, BatchCache, put_behind, room


class KVCache:
    """Keys and values of one layer for a left-padded batch.

    bits: 8 or 4 packs them, 0 stores them as they are; expected: tokens to make room for at once.
    """

    def __init__(self, bits: int = 0, expected: int = 0) -> None:
        self.bits, self.expected = bits, expected
        # Those of the keys, then those of the values: [B, heads, room, D] or what `pack` makes; `length` tokens are filled.
        self.arrays: list[mx.array] = []
        self.length = 0

    def size(self) -> int:
        """S."""
        return self.length

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        heads, new = k.shape[1], [*pack(k, self.bits), *pack(v, self.bits)]
        filled = put_behind(self.arrays, new, self.length, self.expected, with_room)
        self.length += k.shape[2]
        half = len(filled) // 2
        return unpack(filled[:half], self.bits, heads), unpack(filled[half:], self.bits, heads)

    def filter(self, rows: list[int], padding: int = 0) -> None:
        """See `kv_cache.LayerCache`."""
        self.length -= padding
        index = mx.array(rows)
        self.arrays = [array[index][:, :, padding:] for array in self.arrays]

    def truncate(self, tokens: int) -> None:
        """See `kv_cache.LayerCache`."""
        self.length = min(self.length, tokens)

    def row(self, row: int, padding: int) -> KVCache:
        """See `kv_cache.LayerCache`."""
        copy = KVCache(self.bits)
        copy.length = self.length - padding
        copy.arrays = [mx.contiguous(array[row : row + 1, :, padding : self.length]) for array in self.arrays]
        mx.eval(copy.arrays)  # else it would hold on to the whole batch
        return copy

    def join(self, others: Sequence[KVCache], columns: int) -> None:
        """See `kv_cache.LayerCache`."""
        sources = [self, *others]
        joined = []
        for each in zip(*(cache.arrays for cache in sources)):
            padded = [
                mx.pad(array[:, :, : cache.length], [(0, 0), (0, 0), (columns - cache.length, room(columns) - columns), (0, 0)])
                for cache, array in zip(sources, each)
            ]
            joined.append(mx.concatenate(padded))
        self.arrays, self.length = joined, columns
        mx.eval(self.arrays)

    def nbytes(self) -> int:
        """See `kv_cache.LayerCache`."""
        return sum(array.nbytes for array in self.arrays)

    def token_bytes(self) -> int:
        """See `kv_cache.LayerCache`."""
        return sum(array.nbytes // (array.shape[0] * array.shape[2]) for array in self.arrays)


def with_room(old: mx.array | None, new: mx.array, tokens: int) -> mx.array:
    """`old` where it holds that many tokens; else a larger array that begins as `old` does, of the kind of `new`."""
    if old is not None and old.shape[2] >= tokens:
        return old
    b, heads, _, d = new.shape
    held = 0 if old is None else old.shape[2]
    more = mx.zeros((b, heads, room(tokens) - held, d), new.dtype)
    return more if old is None else mx.concatenate([old, more], axis=2)


def pack(x: mx.array, bits: int) -> list[mx.array]:
    """[B, heads, T, D] -> packed words, scales and biases, [B, 1, T, numbers] each; itself where bits is 0."""
    if not bits:
        return [x]
    b, heads, t, d = x.shape
    # Groups may go over from one head to the next: a head's width need not be a multiple of a group.
    words, scales, biases = mx.quantize(x.swapaxes(1, 2).reshape(b, 1, t, heads * d), KV_GROUP, bits)
    return [words, scales, biases]


def unpack(arrays: Sequence[mx.array], bits: int, heads: int) -> mx.array:
    """The inverse of `pack`, but for what the bits lose: [B, heads, T, D]."""
    if not bits:
        return arrays[0]
    words, scales, biases = arrays
    b, _, t, _ = words.shape
    return mx.dequantize(words, scales, biases, KV_GROUP, bits).reshape(b, t, heads, -1).swapaxes(1, 2)


Cache = BatchCache[KVCache]


def prefill_mask(valid: np.ndarray) -> mx.array | str:
    """Mask of left-padded prompts of one chunk, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    if valid.all():
        return "causal"
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    return mx.array(causal & (valid[:, None, None, :] | ~valid[:, None, :, None]))
