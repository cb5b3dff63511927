"""The scores of a batch's next tokens on Metal or CUDA: see `next_tokens`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..next_tokens import HostScores, NextTokens, Scores, group_width
from ..sampling import Draws
from .arrays import scalar, to_numpy


def scores(logits: mx.array, *, on_device: bool) -> Scores:
    """The scores in logits [B, V]. on_device: left where they are, and begun to be computed."""
    if not on_device:
        return HostScores(to_numpy(logits))
    mx.async_eval(logits)
    return DeviceScores(logits.astype(mx.float32))


class DeviceScores:
    """See `next_tokens.Scores`. Logits fp32 [B, V]."""

    def __init__(self, logits: mx.array) -> None:
        self.logits = logits

    def greedy(self) -> mx.array:
        """See `Scores`."""
        return mx.argmax(self.logits, axis=-1)

    def draw(self, draws: Draws) -> mx.array:
        """See `Scores`."""
        temperature, top_p, first, second = mx.array(draws.columns).split(4, axis=-1)
        top = self.logits.max(axis=-1, keepdims=True)
        weights = mx.exp((self.logits - top) / mx.where(temperature > 0, temperature, 1))
        if draws.any_nucleus:
            weights = mx.where(weights >= _least_in_nucleus(weights, top_p), weights, 0)
        groups = in_groups(weights)
        group = _place(groups.sum(axis=-1), first)
        token = _place(mx.take_along_axis(groups, group[:, :, None], axis=1)[:, 0], second)
        drawn = (group * groups.shape[-1] + token)[:, 0]
        return mx.where(temperature[:, 0] > 0, drawn, self.greedy()) if draws.any_greedy else drawn

    def read(self, tokens: Any, k: int) -> NextTokens | None:
        """See `Scores`."""
        tokens = tokens if isinstance(tokens, mx.array) else mx.array(tokens)
        top = self.logits.max(axis=-1, keepdims=True)
        # MLX: on a CPU a sum of a whole row in fp32 is off by 4e-5; by groups it is exact to 2e-6.
        parts = in_groups(mx.exp(self.logits - top)).sum(axis=-1)
        total = mx.log(parts.sum(axis=-1, keepdims=True))
        chosen = mx.take_along_axis(self.logits, tokens[:, None], axis=-1)
        ids, values = likeliest(self.logits, k) if k else (mx.zeros((len(tokens), 0), mx.int32), chosen[:, :0])
        finite = mx.isfinite(self.logits).all()
        logprobs, likeliest_logprobs = (chosen - top) - total, (values - top) - total
        mx.eval(tokens, logprobs, ids, likeliest_logprobs, finite)
        if not scalar(finite):
            return None
        return NextTokens(
            np.array(tokens).astype(np.int64),
            to_numpy(logprobs)[:, 0].astype(np.float64),
            np.array(ids).astype(np.int64),
            to_numpy(likeliest_logprobs).astype(np.float64),
        )

    def rows(self, rows: Sequence[int]) -> DeviceScores:
        """See `Scores`."""
        return DeviceScores(self.logits[mx.array(list(rows))])

    def join(self, *others: DeviceScores) -> DeviceScores:
        """See `Scores`."""
        return DeviceScores(mx.concatenate([self.logits, *(other.logits for other in others)]))

    def numpy(self) -> np.ndarray:
        """See `Scores`."""
        return to_numpy(self.logits)


def in_groups(values: mx.array) -> mx.array:
    """[B, V] -> [B, groups, width]."""
    b, vocabulary = values.shape
    width = group_width(vocabulary)
    return values.reshape(b, vocabulary // width, width)


def _least_in_nucleus(weights: mx.array, top_p: mx.array) -> mx.array:
    """The smallest weight [B, 1] of [B, V] that counts, see `sampling.Draws`."""
    ordered = in_groups(-mx.sort(-weights, axis=-1))
    # MLX: no fp64 on a GPU; sums by groups are as exact as in `read`.
    sums = ordered.sum(axis=-1, keepdims=True)
    before = (mx.cumsum(sums, axis=1) - sums) + (mx.cumsum(ordered, axis=-1) - ordered)
    counts = before < (top_p * sums.sum(axis=1))[:, None]
    return mx.where(counts, ordered, mx.inf).min(axis=(1, 2))[:, None]


def _place(weights: mx.array, number: mx.array) -> mx.array:
    """[B, n], [B, 1] -> [B, 1]; see `next_tokens`."""
    running = mx.cumsum(weights, axis=-1)
    beyond = running > number * running[:, -1:]
    return mx.argmax((weights > 0).astype(mx.int32) * (1 + beyond), axis=-1, keepdims=True).astype(mx.int32)


def likeliest(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The k largest of [B, V] in falling order: ids and values [B, k]. See `next_tokens.likeliest`.

    MLX: its partition sorts whole rows; k times the largest, among maxima of groups and then in k groups, does not.
    """
    b, vocabulary = logits.shape
    groups = in_groups(logits)
    width = groups.shape[-1]
    chosen = mx.sort(_first(groups.max(axis=-1), min(k, groups.shape[1])), axis=-1)  # in the order of ids
    candidates = mx.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(b, -1)
    places = _first(candidates, min(k, vocabulary))
    ids = mx.take_along_axis(chosen, places // width, axis=-1) * width + places % width
    return ids, mx.take_along_axis(candidates, places, axis=-1)


def _first(values: mx.array, k: int) -> mx.array:
    """Places of the k largest of [B, n], in falling order."""
    places = []
    for _ in range(k):
        places.append(mx.argmax(values, axis=-1, keepdims=True).astype(mx.int32))
        values = mx.put_along_axis(values, places[-1], mx.array(-mx.inf, values.dtype), axis=-1)
    return mx.concatenate(places, axis=-1)
