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
    linear: Callable[[mx.array], mx.array],
    x: mx.array,
    a: mx.array,
    b: mx.array,
    scale: float,
    mask: Mask | None = None,
    *,
    input_trains: bool = True,
) -> mx.array:
    """linear(x) + scale * (dropped x a) b, of a layer that does not train; a [in, r], b [r, out].

    input_trains: whether anything before it trains; else the gradient of x, which nothing needs, is given as zeros.
    """

    def dropped(x: mx.array) -> mx.array:
        return x if mask is None else mask(x)

    @mx.custom_function
    def whole(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        return cut(mx.addmm(linear(x), scale * (dropped(x) @ a), b))

    @whole.vjp
    def gradient(primals: Sequence[mx.array], d: mx.array, _: Any) -> tuple[mx.array, ...]:
        x, a, b = primals
        low = scale * (d @ b.T)  # [..., r]
        of_x = cut(_of_input(linear, x, d, low, a, mask)) if input_trains else mx.zeros_like(x)
        flat_x, flat_d = dropped(x).reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
        of_a, of_b = flat_x.T @ low.reshape(-1, low.shape[-1]), (scale * (flat_x @ a)).T @ flat_d
        return of_x, cut(of_a), cut(of_b)

    return cast(mx.array, whole(x, a, b))


def _of_input(
    linear: Callable[[mx.array], mx.array], x: mx.array, d: mx.array, low: mx.array, a: mx.array, mask: Mask | None
) -> mx.array:
    """The gradient of x; low: that of what a gives."""
    through: mx.array
    if isinstance(linear, CPUQuantizedLinear):
        through = linear.input_gradient(d)
    else:
        through = mx.vjp(lambda x: [linear(x)], [x], [d])[1][0]
    return mx.addmm(through, low, a.T) if mask is None else through + mask(low @ a.T)
