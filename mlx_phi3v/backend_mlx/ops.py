"""Operations with an implementation of their own for the CPU. `on_cpu` is the one switch: Metal and CUDA never enter `cpu`."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from .cpu import attention as cpu_attention
from .cpu import chunk_attention
from .cpu import math as cpu_math
from .cpu.quantized import CPUQuantizedLinear
from .cpu.streams import map_chunks


def on_cpu() -> bool:
    """Whether arrays are computed on a CPU."""
    return bool(mx.default_device() == mx.cpu)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
    """softmax(scale * q k^T) v of [B, heads, T, D] and keys [B, kv heads, S, D]; mask: "causal", bool or None.

    Causal queries are the last of the S tokens.
    """
    if on_cpu() and not isinstance(mask, mx.array) and cpu_attention.is_worth_it(q, k):
        return cpu_attention.attention(q, k, v, scale, causal=mask == "causal")
    if on_cpu() and isinstance(mask, str) and chunk_attention.is_worth_it(q, k):
        return chunk_attention.attention(q, k, v, scale)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def swiglu(x: mx.array) -> mx.array:
    """silu(gate) * up of [..., 2I], the gate first."""
    if on_cpu() and x.dtype == mx.float32:
        return cpu_math.swiglu(x)
    gate, up = mx.split(x, 2, axis=-1)
    activated: mx.array = nn.silu(gate)
    return activated * up


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x)."""
    if on_cpu() and x.dtype == mx.float32:
        return cpu_math.quick_gelu(x)
    activated: mx.array = nn.gelu_fast_approx(x)
    return activated


def quantized_linear() -> type[nn.QuantizedLinear]:
    """The class of a layer with packed weights."""
    return CPUQuantizedLinear if on_cpu() else nn.QuantizedLinear


def in_chunks(function: Callable[..., tuple[mx.array, ...]], *arrays: mx.array) -> tuple[mx.array, ...]:
    """`function(*arrays)`, element-wise along the arrays' first axis; on a CPU in chunks, on all cores."""
    return map_chunks(function, *arrays) if on_cpu() else function(*arrays)
