"""Operations with an implementation of their own for the CPU. `on_cpu` is the one switch: Metal and CUDA never enter `cpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from .cpu import activations, norms, residual, rotary
from .cpu import attention as cpu_attention
from .cpu.quantized import CPUQuantizedLinear
from .cpu.shared import WORTH_IT, is_plain
from .cpu.shared import cut as cpu_cut
from .cpu.streams import map_chunks


def on_cpu() -> bool:
    """Whether arrays are computed on a CPU."""
    return bool(mx.default_device() == mx.cpu)


def is_ours(x: mx.array) -> bool:
    """Whether an element-wise operation on x is the CPU's own."""
    return x.size >= WORTH_IT and x.dtype == mx.float32 and on_cpu() and not is_plain()


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None) -> mx.array:
    """softmax(scale * q k^T) v of [B, heads, T, D] and keys [B, kv heads, S, D]; mask: "causal", bool or None.

    Causal queries are the last of the S tokens.
    """
    if is_ours(q) and not isinstance(mask, mx.array) and cpu_attention.is_worth_it(q, k):
        return cpu_attention.attention(q, k, v, scale, causal=mask == "causal")
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def cut(x: mx.array) -> mx.array:
    """x without what it came from, where the CPU's own operations computed that: see `cpu.shared.cut`."""
    if is_ours(x):
        return cpu_cut(x)
    return x


def add(x: mx.array, y: mx.array) -> mx.array:
    """x + y, of a residual connection."""
    if is_ours(x):
        return cast(mx.array, residual.add(x, y))
    return x + y


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Apply RoPE to [B, heads, T, D]: halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
    if is_ours(x):
        return cast(mx.array, rotary.rotate(x, cos, sin))
    first, second = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([-second, first], axis=-1) * sin


def swiglu(x: mx.array) -> mx.array:
    """silu(gate) * up of [..., 2I], the gate first."""
    if is_ours(x):
        return cast(mx.array, activations.swiglu(x))
    gate, up = mx.split(x, 2, axis=-1)
    activated: mx.array = nn.silu(gate)
    return activated * up


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x)."""
    if is_ours(x):
        return cast(mx.array, activations.quick_gelu(x))
    activated: mx.array = nn.gelu_fast_approx(x)
    return activated


class LayerNorm(nn.LayerNorm):
    """MLX's layer norm, faster on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        if is_ours(x):
            return norms.layer_norm(x, self.weight, self.bias, self.eps)
        normed: mx.array = super().__call__(x)
        return normed


class RMSNorm(nn.RMSNorm):
    """MLX's RMS norm, faster on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        if is_ours(x):
            return norms.rms_norm(x, self.weight, self.eps)
        normed: mx.array = super().__call__(x)
        return normed


def quantized_linear() -> type[nn.QuantizedLinear]:
    """The class of a layer with packed weights."""
    return CPUQuantizedLinear if on_cpu() else nn.QuantizedLinear


def in_chunks(function: Callable[..., tuple[mx.array, ...]], *arrays: mx.array) -> tuple[mx.array, ...]:
    """`function(*arrays)`, element-wise along the arrays' first axis; on a CPU in chunks, on all cores."""
    return map_chunks(function, *arrays) if on_cpu() else function(*arrays)
