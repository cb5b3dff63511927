"""The CLIP tower in torch, up to `hidden_states[-2]`.

Source: openai/clip-vit-large-patch14-336; the modules are transformers' own. Parameters are named and shaped as in the
published checkpoint. Shapes: N crops, S = grid^2 + 1 positions, C width.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP as VisionMLP
from transformers.models.clip.modeling_clip import CLIPAttention as VisionAttention
from transformers.models.clip.modeling_clip import CLIPEncoderLayer as VisionLayer
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings as VisionEmbeddings

from ..config import VisionArgs
from .checkpointing import checkpointed

__all__ = ["VisionAttention", "VisionEmbeddings", "VisionEncoder", "VisionLayer", "VisionMLP", "VisionModel"]


def clip_config(config: VisionArgs, attn_implementation: str) -> CLIPVisionConfig:
    """transformers' configuration of the same tower."""
    clip = CLIPVisionConfig(**asdict(config), projection_dim=config.hidden_size)
    clip._attn_implementation = attn_implementation
    return clip


class VisionEncoder(nn.Module):
    """The layers whose output is used: all but the last."""

    def __init__(self, config: VisionArgs, clip: CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(clip) for _ in range(config.used_layers))


class VisionModel(nn.Module):
    """fp crops [N, 3, 336, 336] -> patch features [N, grid^2, C], without the class token."""

    def __init__(self, config: VisionArgs, attn_implementation: str) -> None:
        super().__init__()
        clip = clip_config(config, attn_implementation)
        self.embeddings = VisionEmbeddings(clip)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = VisionEncoder(config, clip)
        self.gradient_checkpointing = False

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x: torch.Tensor = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in self.encoder.layers:
            run = checkpointed(layer) if self.gradient_checkpointing and torch.is_grad_enabled() else layer
            x = run(x, attention_mask=None)
        return x[:, 1:]
