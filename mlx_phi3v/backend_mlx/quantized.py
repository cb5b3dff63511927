"""The language model with MLX's packed weights."""

from __future__ import annotations

import mlx.nn as nn

from ..checkpoint.layout import is_quantized
from ..config import Quantization
from .ops import quantized_linear


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
            module.__class__ = quantized_linear()
