"""The KV cache of a batch in torch. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

from ..kv_cache import KV_GROUP, BatchCache, put_behind, room
from .device import to_device
from .quantized import pack_groups, unpack_groups


class KVCache:
    """Keys and values of one layer for a left-padded batch.

    bits: 8 or 4 packs them, 0 stores them as they are; expected: tokens to make room for at once.
    """

    def __init__(self, bits: int = 0, expected: int = 0) -> None:
        self.bits, self.expected = bits, expected
        # Those of the keys, then those of the values: [B, heads, room, D] or what `pack` makes; `length` tokens are filled.
        self.arrays: list[torch.Tensor] = []
        self.length = 0

    def size(self) -> int:
        """S."""
        return self.length

    def update_and_fetch(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        heads, new = k.shape[1], [*pack(k, self.bits), *pack(v, self.bits)]
        filled = put_behind(self.arrays, new, self.length, self.expected, with_room)
        self.length += k.shape[2]
        half = len(filled) // 2
        return unpack(filled[:half], self.bits, heads), unpack(filled[half:], self.bits, heads)

    def filter(self, rows: list[int], padding: int = 0) -> None:
        """See `kv_cache.LayerCache`."""
        self.length -= padding
        if self.arrays:
            index = to_device(np.array(rows), self.arrays[0].device)
            self.arrays = [array[index, :, padding:] for array in self.arrays]

    def truncate(self, tokens: int) -> None:
        """See `kv_cache.LayerCache`."""
        self.length = min(self.length, tokens)

    def row(self, row: int, padding: int) -> KVCache:
        """See `kv_cache.LayerCache`."""
        copy = KVCache(self.bits)
        copy.length = self.length - padding
        copy.arrays = [array[row : row + 1, :, padding : self.length].clone() for array in self.arrays]
        return copy

    def join(self, others: Sequence[KVCache], columns: int) -> None:
        """See `kv_cache.LayerCache`."""
        sources = [self, *others]
        joined = []
        for each in zip(*(cache.arrays for cache in sources)):
            padded = [
                pad(array[:, :, : cache.length], (0, 0, columns - cache.length, room(columns) - columns))
                for cache, array in zip(sources, each)
            ]
            joined.append(torch.cat(padded))
        self.arrays, self.length = joined, columns

    def nbytes(self) -> int:
        """See `kv_cache.LayerCache`."""
        return sum(array.nbytes for array in self.arrays)

    def token_bytes(self) -> int:
        """See `kv_cache.LayerCache`."""
        return sum(array.nbytes // (array.shape[0] * array.shape[2]) for array in self.arrays)


def with_room(old: torch.Tensor | None, new: torch.Tensor, tokens: int) -> torch.Tensor:
    """`old` where it holds that many tokens; else a larger tensor that begins as `old` does, of the kind of `new`."""
    if old is not None and old.shape[2] >= tokens:
        return old
    b, heads, _, d = new.shape
    larger = new.new_zeros((b, heads, room(tokens), d))
    if old is not None:
        larger[:, :, : old.shape[2]] = old
    return larger


def pack(x: torch.Tensor, bits: int) -> list[torch.Tensor]:
    """[B, heads, T, D] -> packed bytes, scales and biases, [B, 1, T, numbers] each; itself where bits is 0."""
    if not bits:
        return [x]
    b, heads, t, d = x.shape
    # Groups may go over from one head to the next: a head's width need not be a multiple of a group.
    return list(pack_groups(x.transpose(1, 2).reshape(b, 1, t, heads * d), KV_GROUP, bits))


def unpack(arrays: Sequence[torch.Tensor], bits: int, heads: int) -> torch.Tensor:
    """The inverse of `pack`, but for what the bits lose: [B, heads, T, D]."""
    if not bits:
        return arrays[0]
    packed, scales, biases = arrays
    b, _, t, _ = packed.shape
    return unpack_groups(packed, scales, biases, bits).reshape(b, t, heads, -1).transpose(1, 2)


class Cache(BatchCache[KVCache]):
    """KV cache of a batch, as transformers' attention takes it."""

    def update(self, k: torch.Tensor, v: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values of one layer, see `KVCache.update_and_fetch`."""
        return self.layers[layer_idx].update_and_fetch(k, v)


def prefill_mask(valid: np.ndarray) -> np.ndarray:
    """Mask of left-padded prompts of one chunk, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    allowed: np.ndarray = causal & (valid[:, None, None, :] | ~valid[:, None, :, None])
    return allowed
