"""The CLIP tower in MLX, up to `hidden_states[-2]`.

Source: openai/clip-vit-large-patch14-336 as transformers' CLIPVisionModel runs it. Parameters are named and shaped as
in the published checkpoint. Shapes: N crops, S = grid^2 + 1 positions, C width.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config import VisionArgs
from . import ops
from .arrays import trains
from .checkpointing import checkpointed


class VisionEmbeddings(nn.Module):
    """Patches, class token and learnt positions."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.config = config
        self.class_embedding = mx.zeros((config.hidden_size,))
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = nn.Embedding(config.grid**2 + 1, config.hidden_size)

    def __call__(self, pixel_values: mx.array) -> mx.array:
        patches = self.patch_embedding(pixel_values)  # [N, S-1, C]
        start = mx.broadcast_to(self.class_embedding, (len(patches), 1, patches.shape[-1])).astype(patches.dtype)
        return mx.concatenate([start, patches], axis=1) + self.position_embedding.weight  # [N, S, C]


class PatchEmbedding(nn.Module):
    """The patch convolution. MLX: as one matrix product, so that the weight keeps the published [C, 3, p, p]."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.weight = mx.zeros((config.hidden_size, config.num_channels, config.patch_size, config.patch_size))

    def __call__(self, pixel_values: mx.array) -> mx.array:
        n, channels, height, width = pixel_values.shape
        p = self.patch_size
        x = pixel_values.astype(self.weight.dtype).reshape(n, channels, height // p, p, width // p, p)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(n, (height // p) * (width // p), -1)
        return x @ self.weight.reshape(len(self.weight), -1).T


class VisionAttention(nn.Module):
    """Multi-head self-attention without a mask."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        n, s, c = x.shape
        q, k, v = (
            project(x).reshape(n, s, self.num_heads, -1).transpose(0, 2, 1, 3)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = ops.attention(q, k, v, self.scale, mask=None)
        return self.out_proj(x.transpose(0, 2, 1, 3).reshape(n, s, c))


class VisionMLP(nn.Module):
    """Two layers with quick-GELU, x * sigmoid(1.702 x)."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(ops.quick_gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = ops.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = ops.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        x = ops.add(x, self.self_attn(self.layer_norm1(x)))
        return ops.add(x, self.mlp(self.layer_norm2(x)))


class VisionEncoder(nn.Module):
    """The layers whose output is used: all but the last."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.layers = [VisionLayer(config) for _ in range(config.used_layers)]


class VisionModel(nn.Module):
    """fp crops [N, 3, 336, 336] -> patch features [N, grid^2, C], without the class token."""

    def __init__(self, config: VisionArgs) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = ops.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = VisionEncoder(config)
        self.gradient_checkpointing = False

    def __call__(self, pixel_values: mx.array) -> mx.array:
        x: mx.array = self.pre_layrnorm(self.embeddings(pixel_values))
        frozen = not trains(self)
        for layer in self.encoder.layers:
            x = (checkpointed(layer) if self.gradient_checkpointing else layer)(x)
            x = ops.cut(x) if frozen else x
        return x[:, 1:]
