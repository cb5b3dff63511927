"""A linear layer with LoRA for MLX on a CPU, in fp32, which keeps its input for the gradient, and what dropout keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import mlx.core as mx

from .quantized import CPUQuantizedLinear
from .shared import cut


class Mask(NamedTuple):
    """What dropout keeps of an array, bool of its shape, and what that is multiplied by."""

    kept: mx.array
    factor: float

    def __call__(self, x: mx.array) -> mx.array:
        """x with zeros where it is dropped; the gradient is masked in the same way."""
        return (self.kept * x) * self.factor


def lora_linear(
    linear: Callable[[mx.array], mx.array], x: mx.array, a: mx.array, b: mx.array, scale: float, mask: Mask | None = None
) -> mx.array:
    """linear(x) + scale * (dropped x a) b, of a layer that does not train; a [in, r], b [r, out]."""

    def dropped(x: mx.array) -> mx.array:
        return x if mask is None else mask(x)

    @mx.custom_function
    def whole(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        return cut(mx.addmm(linear(x), scale * (dropped(x) @ a), b))

    @whole.vjp
    def gradient(primals: Sequence[mx.array], d: mx.array, _: Any) -> tuple[mx.array, ...]:
        x, a, b = primals
        of_x = linear.input_gradient(d) if isinstance(linear, CPUQuantizedLinear) else _input_gradient(linear, x, d)
        low = scale * (d @ b.T)  # [..., r]
        of_x = mx.addmm(of_x, low, a.T) if mask is None else of_x + mask(low @ a.T)
        flat_x, flat_d = dropped(x).reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
        of_a, of_b = flat_x.T @ low.reshape(-1, low.shape[-1]), (scale * (flat_x @ a)).T @ flat_d
        return cut(of_x), cut(of_a), cut(of_b)

    return cast(mx.array, whole(x, a, b))


def _input_gradient(linear: Callable[[mx.array], mx.array], x: mx.array, d: mx.array) -> mx.array:
    gradient: mx.array = mx.vjp(lambda x: [linear(x)], [x], [d])[1][0]
    return gradient
