"""Causal attention of a chunk behind cached keys for MLX on a CPU, where the fused operation makes all scores at once.

Blocks of queries go over blocks of keys with a running maximum and sum (online softmax, Milakov and Gimelshein 2018), so that
memory does not grow with the number of keys. Without gradient: training reads whole rows.
Shapes: B rows, h heads, T new tokens, S tokens so far, D head width, g queries' heads of a key-value head.
"""

from __future__ import annotations

import mlx.core as mx

from .math import exp
from .streams import map_chunks

QUERIES, KEYS = 256, 2048  # at a time: scores of 32 heads take 64 MB


def is_worth_it(q: mx.array, k: mx.array) -> bool:
    """Whether `attention` is to be used: several queries, each of which sees cached keys."""
    return 1 < q.shape[2] < k.shape[2]


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    """softmax(scale * q k^T) v of the last T of S tokens, q [B, h, T, D] and k, v [B, h / g, S, D]; computed in fp32."""
    b, heads, t, d = q.shape
    kv, s = k.shape[1:3]
    queries = (q.astype(mx.float32) * scale).reshape(b * kv, heads // kv, t, d)
    keys, values = (mx.contiguous(x.astype(mx.float32).reshape(b * kv, s, d)) for x in (k, v))
    done = [_block(queries[:, :, i : i + QUERIES], keys, values, s - t + i) for i in range(0, t, QUERIES)]
    return mx.concatenate(done, axis=2).reshape(b, heads, t, d).astype(q.dtype)


def _block(queries: mx.array, keys: mx.array, values: mx.array, first: int) -> mx.array:
    """Some queries [B * kv, g, n, D], the first of which sees so many keys before its own."""
    groups, g, n, d = queries.shape
    rows = mx.contiguous(queries).reshape(groups, g * n, d)
    top = mx.full((groups * g * n, 1), -mx.inf)
    total, summed = mx.zeros((groups * g * n, 1)), mx.zeros((groups, g * n, d))
    for start in range(0, first + n, KEYS):
        end = min(start + KEYS, first + n)
        scores = (rows @ keys[:, start:end].swapaxes(1, 2)).reshape(groups * g, n, end - start)
        if end > first + 1:  # else every query sees all of them
            hidden = mx.arange(start, end)[None] > mx.arange(first, first + n)[:, None]
            scores = mx.where(hidden, -mx.inf, scores)
        weights, new_top, sums = map_chunks(_weights, scores.reshape(groups * g * n, -1), top)
        kept = exp(top - new_top)
        top, total = new_top, total * kept + sums
        summed = summed * kept.reshape(groups, g * n, 1) + weights.reshape(groups, g * n, -1) @ values[:, start:end]
    # NaN and infinity, which `exp` loses, stay what they are.
    return (summed / (total + 0 * top).reshape(groups, g * n, 1)).reshape(groups, g, n, d)


def _weights(scores: mx.array, top: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """exp(scores - the maximum so far) of [rows, keys], that maximum and the weights' sum, [rows, 1] each."""
    top = mx.maximum(top, scores.max(-1, keepdims=True))
    weights = exp(scores - top)
    return weights, top, weights.sum(-1, keepdims=True)
