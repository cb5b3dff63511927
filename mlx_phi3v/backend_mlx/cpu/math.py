"""exp, softmax and the activations for MLX on a CPU: MLX's own exp does one element at a time, products and sums do not.

exp(x) = 2^n * 2^f with n = round(x / ln 2) and a polynomial for 2^f, |f| <= 1/2, made of products, sums and one shift.
They are for fp32; `ops` takes MLX's own functions for other dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx

from .streams import map_chunks

_LOG2_E = 1.4426950408889634
_MAGIC = 12582912.0  # 1.5 * 2^23: added to a small fp32 number, the sum's low bits hold the nearest whole number
# 2^f on [-1/2, 1/2], least squares of the relative error at 2,001 Chebyshev points: at most 2e-9 off before rounding.
_POLYNOMIAL = (1.5337585e-4, 1.33998705e-3, 9.6185198e-3, 5.550329e-2, 2.4022646e-1, 6.9314718e-1, 1.0)


def exp(x: mx.array) -> mx.array:
    """e^x of fp32, |x| <= 86.9 (beyond, that of the bound), relative error 2e-7 + 1e-7 |x|. NaN is lost. No gradient."""
    y = mx.clip(x * _LOG2_E, -125.5, 125.5)
    shifted = y + _MAGIC
    f = y - (shifted - _MAGIC)
    power = mx.array(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power = power * f + coefficient
    exponent = mx.left_shift(shifted.view(mx.int32), 23)  # the magic number's own bits are shifted out
    return (power.view(mx.int32) + exponent).view(mx.float32)


def softmax(x: mx.array) -> mx.array:
    """Over the last axis of [rows, ..., keys]; minus infinity is hidden. No gradient."""
    return map_chunks(_softmax, x)[0]


def _softmax(x: mx.array) -> tuple[mx.array]:
    if x.dtype != mx.float32:
        return (mx.softmax(x, axis=-1, precise=True),)  # else it sums up in the narrow dtype: 8 % off at 300 keys
    highest = x.max(-1, keepdims=True)
    weights = exp(x - highest)
    return (weights * (1 / (weights.sum(-1, keepdims=True) + 0 * highest)),)  # NaN and infinity stay what they are


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + exp(-x))


def swiglu(x: mx.array) -> mx.array:
    """silu(gate) * up of fp32 [..., 2I], the gate first."""
    return _swiglu(x.reshape(-1, x.shape[-1]))[0].reshape(*x.shape[:-1], -1)


def _swiglu_chunk(x: mx.array) -> tuple[mx.array, mx.array]:
    gate, up = mx.split(x, 2, axis=-1)
    sigmoid = _sigmoid(gate)
    return gate * sigmoid * up, sigmoid


def _swiglu_gradient(x: mx.array, d: mx.array, sigmoid: mx.array) -> tuple[mx.array]:
    gate, up = mx.split(x, 2, axis=-1)
    silu = gate * sigmoid
    return (mx.concatenate([d * up * (sigmoid + silu * (1 - sigmoid)), d * silu], axis=-1),)


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x) of fp32."""
    return _quick_gelu(x.reshape(-1, x.shape[-1]))[0].reshape(x.shape)


def _quick_gelu_chunk(x: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = _sigmoid(1.702 * x)
    return x * sigmoid, sigmoid


def _quick_gelu_gradient(x: mx.array, d: mx.array, sigmoid: mx.array) -> tuple[mx.array]:
    return (d * (sigmoid + 1.702 * x * sigmoid * (1 - sigmoid)),)


def _with_gradient(
    value: Callable[..., tuple[mx.array, ...]], gradient: Callable[..., tuple[mx.array, ...]]
) -> Callable[[mx.array], tuple[mx.array, ...]]:
    """value: x -> (result, what the gradient needs); gradient: (x, d result, what was saved) -> d x. Both in chunks."""
    function: Any = mx.custom_function(lambda x: map_chunks(value, x))
    function.vjp(lambda x, cotangents, outputs: map_chunks(gradient, x, cotangents[0], outputs[1])[0])
    return cast(Callable[[mx.array], tuple[mx.array, ...]], function)


_swiglu = _with_gradient(_swiglu_chunk, _swiglu_gradient)
_quick_gelu = _with_gradient(_quick_gelu_chunk, _quick_gelu_gradient)
