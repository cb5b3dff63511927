"""Gradient checkpointing in MLX, layer by layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import ops
from .random_keys import KEYS


def checkpointed(layer: nn.Module) -> Any:
    """The layer with its activations computed again in the backward pass. MLX: its parameters must be arguments."""
    stream = mx.default_stream(mx.default_device())  # not the one that is current when it is computed again

    def run(*inputs: Any) -> Any:
        first: list[mx.array] = []  # MLX: where the random keys stood, so that dropout draws the same masks again

        def forward(parameters: dict[str, Any], *inputs: Any) -> mx.array:
            layer.update(parameters)
            with mx.stream(stream):
                if first:
                    with KEYS.standing_at(first[0]):
                        again: mx.array = layer(*inputs)
                    return again
                first.append(KEYS.position)
                outputs: mx.array = layer(*inputs)
                return ops.cut(outputs)

        return mx.checkpoint(forward)(layer.trainable_parameters(), *inputs)

    return run
