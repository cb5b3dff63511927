"""Attention for MLX on a CPU, in fp32: every head's queries block by block, so that scores stay in a core's cache.

The gradient computes the scores again from each query's log of summed exponentials (as FlashAttention does, Dao et al., 2022),
so that memory grows with tokens, not with their square.
Shapes: B rows (or crops), h heads, g key heads, T queries, S keys, D head width. Queries are the last T of S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from .shared import Floats, in_threads, view

BLOCK = 320  # queries at a time, at most
SCORES = 2**20  # most scores at a time: fewer queries where there are very many keys
LEAST = 16  # queries from which on it is faster than the fused operation


def is_worth_it(q: mx.array, k: mx.array) -> bool:
    """Whether `attention` is to be used: with many queries, each at the place of a key."""
    return LEAST <= q.shape[2] <= k.shape[2]


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, *, causal: bool) -> mx.array:
    """softmax(scale * q k^T) v of [B, h, T, D] and [B, g, S, D]."""
    values: mx.array = _make(scale, causal)(q, k, v)[0]
    return values.transpose(0, 2, 1, 3)


class _Block(NamedTuple):
    """Queries start to end, which see the keys up to `last`; the last of them in falling steps where `steps`."""

    start: int
    end: int
    last: int
    steps: bool


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[_Block]:
    """Those of one row."""
    count = -(-queries // _rows(keys))
    for i in range(count):
        start, end = (queries * j // count for j in (i, i + 1))
        yield _Block(start, end, keys - queries + end if causal else keys, causal)


def _rows(keys: int) -> int:
    """The most queries of a block."""
    return max(16, min(BLOCK, SCORES // keys))


@cache
def _hidden(size: int) -> np.ndarray:
    """bool [size, size]: what a query of a block may not see of the block's own keys."""
    return np.triu(np.ones((size, size), bool), 1)


def _together(x: Floats) -> Floats:
    """Rows that lie far apart in memory, side by side: products of them are faster."""
    return np.ascontiguousarray(x)


def _room(queries: int, keys: int) -> Floats:
    """Room for the scores of a block of queries, used again for each."""
    return np.empty(min(queries, _rows(keys)) * keys, np.float32)


def _into(room: Floats, one: Floats, other: Floats) -> Floats:
    """one @ other, in `room`."""
    shape = len(one), other.shape[1]
    return np.matmul(one, other, out=room[: shape[0] * shape[1]].reshape(shape))


def _scores(q: Floats, k: Floats, block: _Block, room: Floats) -> Floats:
    """[queries, keys seen] in `room`, minus infinity where hidden; q is scaled."""
    scores = _into(room, q, k[: block.last].T)
    size = block.end - block.start
    if block.steps:
        np.copyto(scores[:, -size:], -np.inf, where=_hidden(size))
    return scores


@cache
def _make(scale: float, causal: bool) -> Callable[..., tuple[mx.array, ...]]:
    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        """The attended values [B, T, h, D], and each query's log of summed exponentials [B, h, T]."""
        return _forward(view(q), view(k), view(v), scale, causal)

    @attend.vjp
    def gradient(primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]) -> tuple[Any, ...]:
        q, k, v, d_values, values, sums = map(view, (*primals, cotangents[0], *outputs))
        return _backward(q, k, v, d_values, values, sums, scale, causal)

    return cast(Callable[..., tuple[mx.array, ...]], attend)


def _forward(q: Floats, k: Floats, v: Floats, scale: float, causal: bool) -> tuple[mx.array, ...]:
    b, heads, queries, width = q.shape
    values, sums = np.zeros((b, queries, heads, width), np.float32), np.zeros((b, heads, queries), np.float32)

    def work(i: int) -> None:
        row, head = divmod(i, heads)
        keys, these = (_together(x[row, head * x.shape[1] // heads]) for x in (k, v))
        scaled, room = q[row, head] * np.float32(scale), _room(queries, len(keys))
        for block in _blocks(queries, len(keys), causal):
            here = slice(block.start, block.end)
            weights = _scores(scaled[here], keys, block, room)
            highest = weights.max(axis=1, keepdims=True)
            weights -= highest
            np.exp(weights, out=weights)
            total = weights.sum(axis=1, keepdims=True)
            np.divide(weights @ these[: block.last], total, out=values[row, here, head])
            sums[row, head, here] = (highest + np.log(total))[:, 0]

    in_threads(work, b * heads, products=True)
    return mx.array(values), mx.array(sums)


def _backward(
    q: Floats, k: Floats, v: Floats, d_values: Floats, values: Floats, sums: Floats,
    scale: float, causal: bool,
) -> tuple[mx.array, ...]:  # fmt: skip
    """dS = P * (dO v^T - rowsum(dO * O)), as for any softmax."""
    b, heads, queries, _ = q.shape
    groups = k.shape[1]
    d_q, d_k, d_v = (np.zeros(x.shape, np.float32) for x in (q, k, v))
    each = heads // groups

    def work(i: int) -> None:
        row, group = divmod(i, groups)
        keys, these, of_keys, of_values = _together(k[row, group]), _together(v[row, group]), d_k[row, group], d_v[row, group]
        room, more_room = _room(queries, len(keys)), _room(queries, len(keys))
        for head in range(group * each, (group + 1) * each):
            scaled = q[row, head] * np.float32(scale)
            for block in _blocks(queries, len(keys), causal):
                here, seen = slice(block.start, block.end), slice(block.last)
                d_out = _together(d_values[row, here, head])
                weights = _scores(scaled[here], keys, block, room)
                weights -= sums[row, head, here, None]
                np.exp(weights, out=weights)
                of_values[seen] += weights.T @ d_out
                d_scores = _into(more_room, d_out, these[seen].T)
                d_scores -= np.einsum("ij,ij->i", d_out, values[row, here, head])[:, None]
                d_scores *= weights
                np.matmul(d_scores, keys[seen], out=d_q[row, head, here])
                of_keys[seen] += d_scores.T @ scaled[here]
            d_q[row, head] *= np.float32(scale)

    in_threads(work, b * groups, products=True)
    return mx.array(d_q), mx.array(d_k), mx.array(d_v)
