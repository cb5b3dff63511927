"""Phi-3-mini's decoder layers in MLX. Shapes: B rows, T new tokens, S tokens so far, D head width."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import rope
from ..config import ModelArgs
from . import ops


class RotaryEmbedding(nn.Module):
    """Positions -> cos and sin [B, 1, T, D]; short or long factors row by row."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self._inverse_frequencies = mx.array(rope.inverse_frequencies(config))
        self._scale = rope.attention_scale(config)

    def __call__(self, positions: mx.array, use_long: mx.array, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Angles in fp32, results in `dtype`."""
        frequencies = self._inverse_frequencies[use_long.astype(mx.int32)]  # [B, D/2]
        angles = positions[:, :, None].astype(mx.float32) * frequencies[:, None, :]
        angles = mx.concatenate([angles, angles], axis=-1)[:, None]
        return (mx.cos(angles) * self._scale).astype(dtype), (mx.sin(angles) * self._scale).astype(dtype)


class Attention(nn.Module):
    """Causal self-attention with a fused qkv projection and grouped key-value heads."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.hidden_size, config.qkv_size, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def __call__(self, x: mx.array, cos: mx.array, sin: mx.array, mask: mx.array | str | None, cache: Any = None) -> mx.array:
        b, t, _ = x.shape
        qkv = self.qkv_proj(x).reshape(b, t, -1, self.head_dim).transpose(0, 2, 1, 3)  # [B, heads + 2 kv, T, D]
        q, k, v = mx.split(qkv, [self.num_heads, self.num_heads + self.num_kv_heads], axis=1)
        q, k = ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        x = ops.attention(q, k, v, self.scale, mask)
        return self.o_proj(x.transpose(0, 2, 1, 3).reshape(b, t, -1))


class MLP(nn.Module):
    """SwiGLU; the fused projection holds the gate first."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(ops.swiglu(self.gate_up_proj(x)))


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, cos: mx.array, sin: mx.array, mask: mx.array | str | None, cache: Any = None) -> mx.array:
        x = ops.add(x, self.self_attn(self.input_layernorm(x), cos, sin, mask, cache))
        return ops.add(x, self.mlp(self.post_attention_layernorm(x)))
