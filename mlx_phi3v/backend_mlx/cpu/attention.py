"""Attention for MLX on a CPU, where softmax takes most of the time of `mx.fast.scaled_dot_product_attention`.

MLX takes softmax of what a causal mask hides too; here causal queries go block by block, each against the keys it may
see, and the softmax is `cpu_math`'s.
Shapes: B rows (or crops), h heads, T tokens (or positions), D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import mlx.core as mx

from .math import softmax

BLOCK = 128  # causal queries at a time; half and twice as many were no faster at 800 tokens
_LEAST = 64  # queries from which on it is faster than the fused operation


def is_worth_it(q: mx.array, k: mx.array) -> bool:
    """Whether `attention` is to be used: with a key for each of many queries."""
    return q.shape == k.shape and q.shape[2] >= _LEAST


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, *, causal: bool) -> mx.array:
    """softmax(scale * q k^T) v of [B, h, T, D]; the same as the fused operation but for rounding."""
    attend = _causal if causal else _full
    return attend(mx.contiguous(q * scale), mx.contiguous(k), mx.contiguous(v))[0]


def _blocks(tokens: int, causal: bool) -> list[tuple[int, int]]:
    """(first query, end of queries and of the keys they see) of each block."""
    return [(i, min(i + BLOCK, tokens)) for i in range(0, tokens, BLOCK)] if causal else [(0, tokens)]


@cache
def _hidden(start: int, end: int) -> mx.array:
    """fp32 [end - start, end]: minus infinity where query start + i may not see key j."""
    i, j = mx.arange(start, end)[:, None], mx.arange(end)[None]
    return mx.where(j > i, -mx.inf, 0.0).astype(mx.float32)


def _make(causal: bool) -> Callable[..., tuple[mx.array, ...]]:
    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        """The attended values, then each block's probabilities [B, h, block, keys], which the gradient needs."""
        values, saved = [], []
        for start, end in _blocks(q.shape[2], causal):
            keys = k[:, :, :end].swapaxes(2, 3)
            if causal:
                scores = mx.addmm(_hidden(start, end).astype(q.dtype), q[:, :, start:end], keys)
            else:
                scores = q @ keys
            saved.append(softmax(scores.reshape(-1, *scores.shape[2:])).reshape(scores.shape))
            values.append(saved[-1] @ v[:, :, :end])
        return mx.concatenate(values, axis=2), *saved

    @attend.vjp
    def gradient(primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]) -> tuple[Any, ...]:
        """dS = P * (dO v^T - rowsum(dO * O)), as for any softmax; dk and dv by blocks of keys."""
        (q, k, v), d_out, (out, *saved) = primals, cotangents[0], outputs
        blocks = _blocks(q.shape[2], causal)
        row_sums = -(d_out * out).sum(-1, keepdims=True)
        d_scores = [
            p * mx.addmm(row_sums[:, :, start:end], d_out[:, :, start:end], v[:, :, :end].swapaxes(2, 3))
            for p, (start, end) in zip(saved, blocks)
        ]
        dq = mx.concatenate([ds @ k[:, :, :end] for ds, (_, end) in zip(d_scores, blocks)], axis=2)
        dk, dv = [], []
        for n, (start, end) in enumerate(blocks):
            columns = [
                mx.concatenate([x[..., start:end] for x in rows[n:]], axis=2).swapaxes(2, 3) for rows in (d_scores, saved)
            ]
            dk.append(columns[0] @ q[:, :, start:])
            dv.append(columns[1] @ d_out[:, :, start:])
        return dq, mx.concatenate(dk, axis=2), mx.concatenate(dv, axis=2)

    return cast(Callable[..., tuple[mx.array, ...]], attend)


_full, _causal = _make(False), _make(True)
