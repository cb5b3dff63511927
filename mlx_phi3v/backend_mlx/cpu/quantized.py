"""Quantised layers that stay fast on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from .shared import cut, is_plain, view
from .streams import map_chunks
from .unpacking import BITS, unpacked

FEW_ROWS = 4  # up to here `quantized_matmul` is no slower on a CPU than dequantising first


class CPUQuantizedLinear(nn.QuantizedLinear):
    """MLX: on a CPU `quantized_matmul` has one thread, so chunks of the weight go to all cores.

    It runs at 2 GFLOP/s at any batch size, so for more than a few rows the weight is dequantised and multiplied.
    """

    def __call__(self, x: mx.array) -> mx.array:
        packed: tuple[Any, ...] = self.weight, self.scales, self.biases
        if math.prod(x.shape[:-1]) > FEW_ROWS:
            return _many_rows(self.group_size, self.bits)(x, *packed)
        rows = x.reshape(-1, x.shape[-1])

        def chunk_product(w: mx.array, scales: mx.array, biases: mx.array) -> tuple[mx.array]:
            """[some of out, rows], so that chunks join along the first axis."""
            return (mx.quantized_matmul(rows, w, scales, biases, True, self.group_size, self.bits).T,)

        return map_chunks(chunk_product, *packed)[0].T.reshape(*x.shape[:-1], -1)

    def input_gradient(self, d: mx.array) -> mx.array:
        """The gradient of the input, where d is that of the result. A gradient by MLX computes the result once more for it."""
        packed: tuple[Any, ...] = self.weight, self.scales, self.biases
        return _input_gradient(self.group_size, self.bits, packed, d)


def _without_weight(product: mx.array) -> mx.array:
    """The product alone, where it would keep the unpacked weight: see `cut`."""
    return cut(product) if product.dtype == mx.float32 else product


def _unpacked(group_size: int, bits: int, packed: Sequence[mx.array], after: mx.array) -> mx.array:
    """The weight, unpacked once `after` is computed; without that MLX holds many unpacked layers at once."""
    if bits in BITS and after.dtype == packed[1].dtype == mx.float32 and not is_plain():
        view(after)
        return unpacked(packed[0], packed[1], packed[2], group_size, bits)

    def unpack_chunk(w: mx.array, scales: mx.array, biases: mx.array) -> tuple[mx.array]:
        return (mx.dequantize(w, scales, biases, group_size, bits),)

    return map_chunks(unpack_chunk, *mx.depends(list(packed), [after]))[0].astype(after.dtype)


def _input_gradient(group_size: int, bits: int, packed: Sequence[mx.array], d: mx.array) -> mx.array:
    return _without_weight(d @ _unpacked(group_size, bits, packed, d))


@cache
def _many_rows(group_size: int, bits: int) -> Callable[..., mx.array]:
    @mx.custom_function
    def product(x: mx.array, *packed: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        return _without_weight(x @ _unpacked(group_size, bits, packed, x).T)

    @product.vjp
    def gradient(primals: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        """Of x alone. The weight is unpacked again, else the unpacked weights of all layers would be saved until here."""
        _x, *packed = primals
        return _input_gradient(group_size, bits, packed, cotangent), *map(mx.zeros_like, packed)

    return cast(Callable[..., mx.array], product)
