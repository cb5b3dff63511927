"""The loss of the learnt tokens, a chunk of their positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..config import LABELS_AT_ONCE
from ..prompts import IGNORE
from .random_keys import KEYS


def summed_loss(head: nn.Module, rows: mx.array, targets: mx.array) -> mx.array:
    """Summed cross-entropy (nats, fp32) of `head(rows)`, [labels, H], with `targets` [labels]; IGNORE counts nothing.

    Never more than LABELS_AT_ONCE positions' logits are in memory: where there are more, those of a chunk are computed again
    for the gradient.
    """
    if len(targets) <= LABELS_AT_ONCE:
        return _loss(head, rows, targets)
    return _in_chunks(head)(head.trainable_parameters(), rows, targets)


def _loss(head: nn.Module, rows: mx.array, targets: mx.array) -> mx.array:
    losses = nn.losses.cross_entropy(head(rows).astype(mx.float32), mx.maximum(targets, 0))
    return mx.where(targets == IGNORE, 0.0, losses).sum()


def _in_chunks(head: nn.Module) -> Callable[..., mx.array]:
    """MLX: the parameters must be arguments, and each chunk waits for the one before it, else all are computed together."""
    stood: list[mx.array] = []  # where the random keys stood at each chunk, so that dropout draws the same masks again

    def of_chunk(parameters: dict[str, Any], rows: mx.array, targets: mx.array) -> mx.array:
        head.update(parameters)
        return _loss(head, rows, targets)

    @mx.custom_function
    def total(parameters: dict[str, Any], rows: mx.array, targets: mx.array) -> mx.array:
        losses: list[mx.array] = []
        for chunk in _chunks(targets):
            stood.append(KEYS.position)
            [some] = mx.depends([rows[chunk]], losses[-1:])
            losses.append(of_chunk(parameters, some, targets[chunk]))
        return mx.stack(losses).sum()

    @total.vjp
    def gradient(primals: Sequence[Any], cotangent: mx.array, _: mx.array) -> tuple[Any, ...]:
        parameters, rows, targets = primals
        d_parameters = tree_map(mx.zeros_like, parameters)
        d_rows: list[mx.array] = []
        for position, chunk in zip(stood, _chunks(targets)):
            [some] = mx.depends([rows[chunk]], d_rows[-1:])
            with KEYS.standing_at(position):
                _, (more, d_some) = mx.value_and_grad(of_chunk, argnums=(0, 1))(parameters, some, targets[chunk])
            d_parameters = tree_map(mx.add, d_parameters, more)
            d_rows.append(d_some * cotangent)
        head.update(parameters)  # not those of the last chunk's gradient
        return tree_map(lambda d: d * cotangent, d_parameters), mx.concatenate(d_rows), mx.zeros_like(targets)

    return cast(Callable[..., mx.array], total)


def _chunks(targets: mx.array) -> Iterator[slice]:
    return (slice(start, start + LABELS_AT_ONCE) for start in range(0, len(targets), LABELS_AT_ONCE))
