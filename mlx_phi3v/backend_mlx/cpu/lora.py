"""A linear layer with LoRA for MLX on a CPU, in fp32, which keeps its input for the gradient and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx

from .quantized import CPUQuantizedLinear
from .shared import cut


def lora_linear(linear: Callable[[mx.array], mx.array], x: mx.array, a: mx.array, b: mx.array, scale: float) -> mx.array:
    """linear(x) + scale * (x a) b, of a layer that does not train; a [in, r], b [r, out]."""

    @mx.custom_function
    def whole(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        return cut(mx.addmm(linear(x), scale * (x @ a), b))

    @whole.vjp
    def gradient(primals: Sequence[mx.array], d: mx.array, _: Any) -> tuple[mx.array, ...]:
        x, a, b = primals
        of_x = linear.input_gradient(d) if isinstance(linear, CPUQuantizedLinear) else _input_gradient(linear, x, d)
        low = scale * (d @ b.T)  # [..., r]
        flat_x, flat_d = x.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
        of_a, of_b = flat_x.T @ low.reshape(-1, low.shape[-1]), (scale * (flat_x @ a)).T @ flat_d
        return cut(mx.addmm(of_x, low, a.T)), cut(of_a), cut(of_b)

    return cast(mx.array, whole(x, a, b))


def _input_gradient(linear: Callable[[mx.array], mx.array], x: mx.array, d: mx.array) -> mx.array:
    gradient: mx.array = mx.vjp(lambda x: [linear(x)], [x], [d])[1][0]
    return gradient
