"""Quantised layers that stay fast on a CPU."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from ..config import Quantization
from ..weights import is_quantized

FEW_ROWS = 4  # up to here quantized_matmul is no slower on a CPU than dequantising first


class QuantizedLinear(nn.QuantizedLinear):
    """MLX: `quantized_matmul` runs at 2 GFLOP/s on a CPU whatever the batch: more than a few rows dequantise and multiply."""

    def __call__(self, x: mx.array) -> mx.array:
        if mx.default_device() != mx.cpu or math.prod(x.shape[:-1]) <= FEW_ROWS:
            return super().__call__(x)
        weight = mx.dequantize(self.weight, self.scales, self.biases, group_size=self.group_size, bits=self.bits)
        return x @ weight.astype(x.dtype).T


def quantize_language(model: nn.Module, quantization: Quantization) -> None:
    """Swap the language layers' projections for quantised ones, ready to take packed weights."""
    nn.quantize(
        model,
        group_size=quantization.group_size,
        bits=quantization.bits,
        class_predicate=lambda name, module: isinstance(module, nn.Linear) and is_quantized(name),
    )
    for _, module in model.named_modules():
        if type(module) is nn.QuantizedLinear:
            module.__class__ = QuantizedLinear
