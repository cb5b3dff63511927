"""Gradient checkpointing in MLX, layer by layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import ops


def checkpointed(layer: nn.Module) -> Any:
    """The layer with its activations computed again in the backward pass. MLX: its parameters must be arguments."""
    stream = mx.default_stream(mx.default_device())  # not the one that is current when it is computed again

    def run(*inputs: Any) -> Any:
        first: list[int] = []  # MLX: where the random numbers stood, so that dropout draws the same masks again

        def forward(parameters: dict[str, Any], *inputs: Any) -> mx.array:
            layer.update(parameters)
            now = _random_key()
            if first:
                mx.random.seed(first[0])
            with mx.stream(stream):
                outputs: mx.array = layer(*inputs)
            if first:
                mx.random.seed(now)
            first.append(now)
            return ops.cut(outputs) if len(first) == 1 else outputs

        return mx.checkpoint(forward)(layer.trainable_parameters(), *inputs)

    return run


def _random_key() -> int:
    """The state of MLX's random numbers as the number that `mx.random.seed` takes back."""
    state: Any = mx.random.state  # a list of one key; its type in MLX's stubs is plain `object`
    high, low = state[0].tolist()
    return int(high) << 32 | int(low)
