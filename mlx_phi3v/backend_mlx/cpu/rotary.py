"""RoPE's rotation for MLX on a CPU, in fp32."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .shared import Floats, copied, in_threads, view


@mx.custom_function
def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """[B, heads, T, D] by cos and sin [B, 1, T, D]: halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
    return _rotate(view(x), view(cos), view(sin), back=False)


@rotate.vjp
def _gradient(primals: tuple[mx.array, ...], d_values: mx.array, _: Any) -> tuple[mx.array, ...]:
    """The rotation back; none of cos and sin, which nothing trains."""
    _x, cos, sin = primals
    return _rotate(view(d_values), view(cos), view(sin), back=True), mx.zeros_like(cos), mx.zeros_like(sin)


def _rotate(x: Floats, cos: Floats, sin: Floats, *, back: bool) -> mx.array:
    values = copied(x)
    rotated = view(values)
    heads, half = x.shape[1], x.shape[3] // 2

    def work(i: int) -> None:
        row, head = divmod(i, heads)
        y, c, s = rotated[row, head], cos[row, 0], sin[row, 0]
        first, second, sin1, sin2 = y[:, :half], y[:, half:], s[:, :half], s[:, half:]
        if back:  # d1 cos1 + d2 sin2, d2 cos2 - d1 sin1
            sin1, sin2 = -sin2, -sin1
        from_second, from_first = second * sin1, first * sin2
        y *= c
        first -= from_second
        second += from_first

    in_threads(work, len(x) * heads)
    return values
