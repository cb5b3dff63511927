"""What a KV cache holds besides keys and values: the embeddings it was computed from, and with which RoPE factors.

Where a text grows past the original context, RoPE changes to its long factors for the whole text, and every key of it has
to be computed again. mlx-vlm's loops feed a token at a time, so the embeddings are cached too: as one more layer of keys and
values of the usual shape, which its caches split, merge, cut and store like any other.
Shapes: B rows, S tokens so far with their padding, T new tokens, H hidden size, W numbers a token in one layer's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx_vlm.models.base import cache_position_offset, dequantize_kv_state

from ..config import ModelArgs


class Cached(NamedTuple):
    """What a cache holds: S columns; per row its number of tokens (below 0: padding is still to come) and whether its keys
    have the long factors, int64 and bool [B]."""

    columns: int
    lengths: np.ndarray
    long: np.ndarray


class History:
    """Embeddings and RoPE factors of a batch, in the caches behind those of the decoder's layers."""

    def __init__(self, caches: Sequence[Any], args: ModelArgs) -> None:
        self.caches = caches
        self.hidden = args.hidden_size
        self.shape = (len(caches), 2, args.num_key_value_heads, args.head_dim)

    @staticmethod
    def layers(args: ModelArgs) -> int:
        """How many caches it takes: one, with as many key-value heads as heads."""
        return -(-(args.hidden_size + 1) // (2 * args.num_key_value_heads * args.head_dim))

    def cached(self, rows: int) -> Cached:
        """What the caches hold. Reads the device only where they are not as `append` left them."""
        first = self.caches[0]
        columns = int(cache_position_offset(first))
        if columns == 0 and not isinstance(first.offset, mx.array):
            return Cached(0, np.zeros(rows, np.int64), np.zeros(rows, bool))
        keys, left = getattr(first, "phi3v_left", (None, None))
        if isinstance(left, Cached) and keys is first.keys and left.columns == columns:
            return left
        lengths = np.broadcast_to(np.array(first.offset), (rows,)).astype(np.int64)
        if columns == 0:
            return Cached(0, lengths, np.zeros(rows, bool))
        return Cached(columns, lengths, np.array(self._numbers()[:, -1, self.hidden].astype(mx.float32)) > 0.5)

    def embeddings(self) -> mx.array:
        """[B, S, H]."""
        return self._numbers()[..., : self.hidden]

    def append(self, embeddings: mx.array, after: Cached) -> None:
        """Add embeddings [B, T, H]; `after` is what the caches hold then."""
        b, t, _ = embeddings.shape
        layers, _, heads, width = self.shape
        long = mx.broadcast_to(mx.array(after.long)[:, None, None], (b, t, 1)).astype(embeddings.dtype)
        room = mx.zeros((b, t, layers * 2 * heads * width - self.hidden - 1), embeddings.dtype)
        numbers = mx.concatenate([embeddings, long, room], axis=-1).reshape(b, t, *self.shape)
        for cache, (keys, values) in zip(self.caches, numbers.transpose(2, 3, 0, 4, 1, 5)):
            cache.update_and_fetch(keys, values)
        # The arrays tell whether rows joined or left since; the columns, whether the end was cut off.
        self.caches[0].phi3v_left = (self.caches[0].keys, after)

    def _numbers(self) -> mx.array:
        """All that is stored, [B, S, layers * W]."""
        stored = [mx.stack(dequantize_kv_state(cache, *cache.state[:2])) for cache in self.caches]
        numbers = mx.stack(stored).transpose(2, 4, 0, 1, 3, 5)  # [layers, 2, B, heads, S, width] -> [B, S, ...]
        return numbers.reshape(*numbers.shape[:2], -1)
