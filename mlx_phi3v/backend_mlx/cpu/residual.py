"""The sum of a residual connection for MLX on a CPU, in fp32.

MLX keeps the two inputs of every sum that is computed while a gradient is recorded: forward the output of each sublayer,
backward two gradients of each. See `shared.cut`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .shared import cut, in_rows, view


@mx.custom_function
def add(x: mx.array, y: mx.array) -> mx.array:
    """x + y of the same shape, of which neither is kept."""
    values = mx.array(view(x))
    flat, other = view(values).reshape(-1), view(y).reshape(-1)

    def work(some: slice) -> None:
        flat[some] += other[some]

    in_rows(work, len(flat), 1)
    return values


@add.vjp
def _gradient(_primals: tuple[mx.array, ...], d: mx.array, _: Any) -> tuple[mx.array, mx.array]:
    d = cut(d)
    return d, d
