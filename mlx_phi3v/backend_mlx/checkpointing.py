"""Gradient checkpointing in MLX, layer by layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def checkpointed(layer: nn.Module) -> Any:
    """The layer with its activations computed again in the backward pass. MLX: its parameters must be arguments."""
    stream = mx.default_stream(mx.default_device())  # not the one that is current when it is computed again

    def forward(parameters: dict[str, Any], *inputs: Any) -> mx.array:
        layer.update(parameters)
        with mx.stream(stream):
            return layer(*inputs)

    run = mx.checkpoint(forward)
    return lambda *inputs: run(layer.trainable_parameters(), *inputs)
