"""Layer norm and RMS norm for MLX on a CPU, in fp32, over the last axis; their weights' gradients are MLX's."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from .shared import Floats, in_rows, view


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    values: mx.array = _layer_norm(eps)(x, weight, bias)
    return values


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / sqrt(mean of squares + eps) * weight."""
    values: mx.array = _rms_norm(eps)(x, weight)
    return values


def _dots(a: Floats, b: Floats) -> Floats:
    """The product of each row with the other's, as a mean: [rows, 1]."""
    means: Floats = (np.einsum("ij,ij->i", a, b) / np.float32(a.shape[1]))[:, None]
    return means


def _means(a: Floats) -> Floats:
    means: Floats = a.mean(axis=1, keepdims=True, dtype=np.float32)
    return means


@cache
def _layer_norm(eps: float) -> Any:
    @mx.custom_function
    def norm(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        values = mx.array(view(x))
        rows, w, b = view(values).reshape(-1, x.shape[-1]), view(weight), view(bias)

        def work(some: slice) -> None:
            y = rows[some]
            y -= _means(y)
            y *= 1 / np.sqrt(_dots(y, y) + np.float32(eps))
            y *= w
            y += b

        in_rows(work, *rows.shape)
        return values

    @norm.vjp
    def gradient(primals: tuple[mx.array, ...], d_values: mx.array, _: Any) -> tuple[mx.array, ...]:
        """r (g - mean(g) - n mean(g n)) of g = d * weight, the normed n and r = 1 / sqrt(variance + eps)."""
        x, weight, _bias = primals
        d_x = mx.array(view(d_values))
        rows, source, w = view(d_x).reshape(-1, x.shape[-1]), view(x).reshape(-1, x.shape[-1]), view(weight)

        def work(some: slice) -> None:
            g, n = rows[some], source[some] - _means(source[some])
            r = 1 / np.sqrt(_dots(n, n) + np.float32(eps))
            n *= r
            g *= w
            n *= _dots(g, n)
            g -= _means(g)
            g -= n
            g *= r

        in_rows(work, *rows.shape)
        normed = mx.fast.layer_norm(x, None, None, eps)
        return d_x, _summed(d_values * normed), _summed(d_values)

    return norm


@cache
def _rms_norm(eps: float) -> Any:
    @mx.custom_function
    def norm(x: mx.array, weight: mx.array) -> mx.array:
        values = mx.array(view(x))
        rows, w = view(values).reshape(-1, x.shape[-1]), view(weight)

        def work(some: slice) -> None:
            y = rows[some]
            y *= 1 / np.sqrt(_dots(y, y) + np.float32(eps))
            y *= w

        in_rows(work, *rows.shape)
        return values

    @norm.vjp
    def gradient(primals: tuple[mx.array, ...], d_values: mx.array, _: Any) -> tuple[mx.array, ...]:
        """r (g - n mean(g n)) of g = d * weight, the normed n and r = 1 / sqrt(mean of squares + eps)."""
        x, weight = primals
        d_x = mx.array(view(d_values))
        rows, source, w = view(d_x).reshape(-1, x.shape[-1]), view(x).reshape(-1, x.shape[-1]), view(weight)

        def work(some: slice) -> None:
            g, n = rows[some], source[some]
            r = 1 / np.sqrt(_dots(n, n) + np.float32(eps))
            n = n * r
            g *= w
            n *= _dots(g, n)
            g -= n
            g *= r

        in_rows(work, *rows.shape)
        return d_x, _summed(d_values * mx.fast.rms_norm(x, None, eps))

    return norm


def _summed(x: mx.array) -> mx.array:
    """Over all axes but the last; computed only where it is asked for."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)
