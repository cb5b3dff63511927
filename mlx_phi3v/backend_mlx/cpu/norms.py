"""Layer norm and RMS norm for MLX on a CPU, in fp32, over the last axis; their weights' gradients are MLX's."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from .shared import Floats, in_rows, view


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    values: mx.array = _norm(eps, True)(x, weight, bias)
    return values


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / sqrt(mean of squares + eps) * weight."""
    values: mx.array = _norm(eps, False)(x, weight)
    return values


def _dots(a: Floats, b: Floats) -> Floats:
    """The product of each row with the other's, as a mean: [rows, 1]."""
    means: Floats = (np.einsum("ij,ij->i", a, b) / np.float32(a.shape[1]))[:, None]
    return means


def _means(a: Floats) -> Floats:
    means: Floats = a.mean(axis=1, keepdims=True, dtype=np.float32)
    return means


def _normalise(rows: Floats, eps: float, centred: bool) -> Floats:
    """Divide rows by their root mean square, in place, less their means where `centred`: what they were multiplied by."""
    if centred:
        rows -= _means(rows)
    factors: Floats = 1 / np.sqrt(_dots(rows, rows) + np.float32(eps))
    rows *= factors
    return factors


@cache
def _norm(eps: float, centred: bool) -> Any:
    """Layer norm where `centred`, which has a bias; else RMS norm."""

    @mx.custom_function
    def norm(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
        values = mx.array(view(x))
        rows, w, added = view(values).reshape(-1, x.shape[-1]), view(weight), [view(one) for one in bias]

        def work(some: slice) -> None:
            y = rows[some]
            _normalise(y, eps, centred)
            y *= w
            for one in added:
                y += one

        in_rows(work, *rows.shape)
        return values

    @norm.vjp
    def gradient(primals: tuple[mx.array, ...], d_values: mx.array, _: Any) -> tuple[mx.array, ...]:
        """r (g - mean(g) - n mean(g n)) of g = d * weight, the normed n and its factor r; mean(g) where `centred`."""
        x, weight, *bias = primals
        d_x = mx.array(view(d_values))
        rows, source, w = view(d_x).reshape(-1, x.shape[-1]), view(x).reshape(-1, x.shape[-1]), view(weight)

        def work(some: slice) -> None:
            g, n = rows[some], source[some].copy()
            r = _normalise(n, eps, centred)
            g *= w
            n *= _dots(g, n)
            if centred:
                g -= _means(g)
            g -= n
            g *= r

        in_rows(work, *rows.shape)
        normed = mx.fast.layer_norm(x, None, None, eps) if centred else mx.fast.rms_norm(x, None, eps)
        return d_x, _summed(d_values * normed), *(_summed(d_values) for _ in bias)

    return norm


def _summed(x: mx.array) -> mx.array:
    """Over all axes but the last; computed only where it is asked for."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0)
