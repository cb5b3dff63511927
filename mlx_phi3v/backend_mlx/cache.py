"""The KV cache of a batch in MLX. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..kv_cache import KV_GROUP, BatchCache, LayerCache


class KVCache(LayerCache):
    """Keys and values of one layer, see `kv_cache.LayerCache`."""

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Append keys and values [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        heads, filled = k.shape[1], self.append([*pack(k, self.bits), *pack(v, self.bits)])
        half = len(filled) // 2
        return unpack(filled[:half], self.bits, heads), unpack(filled[half:], self.bits, heads)

    def zeros(self, like: mx.array, places: int, columns: int) -> mx.array:
        """See `kv_cache.LayerCache`."""
        return mx.zeros((places, like.shape[1], columns, like.shape[3]), like.dtype)

    def copied(self, parts: list[mx.array]) -> list[mx.array]:
        """See `kv_cache.LayerCache`."""
        copies = [mx.contiguous(part) for part in parts]
        mx.eval(copies)
        return copies

    def move_rows(self, moves: list[tuple[int, int]]) -> None:
        """See `kv_cache.LayerCache`."""
        # MLX: a part that is not copied yet shares the array's memory, which then would not be written in place.
        parts = iter(self.copied([array[row : row + 1, :, : self.end] for array in self.arrays for _, row in moves]))
        for array in self.arrays:
            for place, _ in moves:
                array[place : place + 1, :, : self.end] = next(parts)

    def settle(self) -> None:
        """See `kv_cache.LayerCache`."""
        mx.eval(self.arrays)


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
