"""The activations for MLX on a CPU, in fp32. The gradient keeps the argument alone, and computes its sigmoid again."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .shared import Floats, copied, in_rows, view

QUICK = 1.702  # quick-GELU's constant


def _sigmoid(x: Floats, factor: float = 1.0) -> Floats:
    """1 / (1 + e^(-factor x))."""
    y = x * np.float32(-factor)
    np.exp(y, out=y)
    y += 1
    np.reciprocal(y, out=y)
    return y


@mx.custom_function
def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x)."""
    values = mx.array(view(x))
    flat = view(values).reshape(-1)

    def work(some: slice) -> None:
        flat[some] *= _sigmoid(flat[some], QUICK)

    in_rows(work, len(flat), 1)
    return values


@quick_gelu.vjp
def _quick_gelu_gradient(x: mx.array, d_values: mx.array, _: Any) -> mx.array:
    """d * s * (1 + 1.702 x (1 - s))."""
    gradient = mx.array(view(d_values))
    flat, argument = view(gradient).reshape(-1), np.ascontiguousarray(view(x)).reshape(-1)

    def work(some: slice) -> None:
        s = _sigmoid(argument[some], QUICK)
        flat[some] *= s
        s *= -QUICK
        s += QUICK
        s *= argument[some]
        s += 1
        flat[some] *= s

    in_rows(work, len(flat), 1)
    return gradient


@mx.custom_function
def swiglu(x: mx.array) -> mx.array:
    """silu(gate) * up of [..., 2I], the gate first: [..., I]."""
    half = x.shape[-1] // 2
    both = view(x)
    values = copied(both[..., :half])
    gate, up = view(values).reshape(-1, half), both.reshape(-1, 2 * half)[:, half:]

    def work(some: slice) -> None:
        silu = gate[some]
        silu *= _sigmoid(silu)
        silu *= up[some]

    in_rows(work, len(gate), half)
    return values


@swiglu.vjp
def _swiglu_gradient(x: mx.array, d_values: mx.array, _: Any) -> mx.array:
    """d gate = d up s (1 + gate - silu), d up = d silu, with silu = gate s."""
    half = x.shape[-1] // 2
    gradient = mx.array(view(x))
    both, d = view(gradient).reshape(-1, 2 * half), view(d_values).reshape(-1, half)

    def work(some: slice) -> None:
        gate, up = both[some, :half], both[some, half:]
        s = _sigmoid(gate)
        silu = gate * s
        gate -= silu
        gate += 1
        gate *= s
        gate *= up
        gate *= d[some]
        np.multiply(silu, d[some], out=up)

    in_rows(work, len(both), 2 * half)
    return gradient
