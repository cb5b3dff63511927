"""The KV cache of a batch in torch. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..kv_cache import KV_GROUP, BatchCache, LayerCache
from .quantized import pack_groups, unpack_groups


class KVCache(LayerCache):
    """Keys and values of one layer, see `kv_cache.LayerCache`."""

    def update_and_fetch(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        heads, filled = k.shape[1], self.append([*pack(k, self.bits), *pack(v, self.bits)])
        half = len(filled) // 2
        return unpack(filled[:half], self.bits, heads), unpack(filled[half:], self.bits, heads)

    def zeros(self, like: torch.Tensor, places: int, columns: int) -> torch.Tensor:
        """See `kv_cache.LayerCache`."""
        return like.new_zeros((places, like.shape[1], columns, like.shape[3]))

    def copied(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """See `kv_cache.LayerCache`."""
        return [part.clone() for part in parts]

    def move_rows(self, moves: list[tuple[int, int]]) -> None:
        """See `kv_cache.LayerCache`."""
        for array in self.arrays:
            for place, row in moves:
                array[place, :, : self.end] = array[row, :, : self.end]

    def settle(self) -> None:
        """See `kv_cache.LayerCache`. Nothing: torch writes at once, in the order of the calls."""


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
