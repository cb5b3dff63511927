"""The KV cache of a batch in torch. Shapes: B rows, T new tokens, S tokens so far with their padding, D head width."""

from __future__ import annotations

import numpy as np
import torch

from ..kv_cache import BatchCache, room
from .device import to_device


class KVCache:
    """Keys and values of one layer for a left-padded batch."""

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None  # [B, heads, room, D], of which `length` are filled
        self.values: torch.Tensor | None = None
        self.length = 0

    def size(self) -> int:
        """S."""
        return self.length

    def update_and_fetch(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
            index = to_device(np.array(rows), self.keys.device)
            self.keys, self.values = self.keys[index, :, padding:], self.values[index, :, padding:]

    def join(self, other: KVCache, padding: tuple[int, int]) -> None:
        """See `kv_cache.LayerCache`."""
        if self.keys is not None and self.values is not None and other.keys is not None and other.values is not None:
            held = self.length, other.length
            self.keys = joined(self.keys, other.keys, held, padding)
            self.values = joined(self.values, other.values, held, padding)
            self.length += padding[0]
            other.keys = other.values = None  # what is copied needs no room any more


def joined(first: torch.Tensor, second: torch.Tensor, held: tuple[int, int], padding: tuple[int, int]) -> torch.Tensor:
    """The rows of two tensors below each other, the `held` tokens of each behind its padding of zeros."""
    rows, end = len(first), held[0] + padding[0]
    both = first.new_zeros((rows + len(second), first.shape[1], room(end), first.shape[3]))
    both[:rows, :, padding[0] : end] = first[:, :, : held[0]]
    both[rows:, :, padding[1] : end] = second[:, :, : held[1]]
    return both


def with_room(old: torch.Tensor | None, new: torch.Tensor, tokens: int) -> torch.Tensor:
    """`old` where it holds that many tokens; else a larger tensor that begins as `old` does, of the kind of `new`."""
    if old is not None and old.shape[2] >= tokens:
        return old
    b, heads, _, d = new.shape
    larger = new.new_zeros((b, heads, room(tokens), d))
    if old is not None:
        larger[:, :, : old.shape[2]] = old
    return larger


class Cache(BatchCache[KVCache]):
    """KV cache of a batch, as transformers' attention takes it."""

    def update(self, k: torch.Tensor, v: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values of one layer, see `KVCache.update_and_fetch`."""
        return self.layers[layer_idx].update_and_fetch(k, v)


def prefill_mask(valid: np.ndarray) -> np.ndarray:
    """Mask of left-padded prompts, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    allowed: np.ndarray = causal & (valid[:, None, None, :] | ~valid[:, None, :, None])
    return allowed
