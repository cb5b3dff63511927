"""Phi-3-mini's decoder layers in torch: transformers' own, with our RoPE. Shapes: B rows, T new tokens, D head width."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3Attention as Attention
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer as DecoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3MLP as MLP
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm as RMSNorm

from .. import rope
from ..config import ModelArgs

__all__ = ["MLP", "Attention", "DecoderLayer", "RMSNorm", "RotaryEmbedding", "phi3_config"]


def phi3_config(config: ModelArgs, attn_implementation: str) -> Phi3Config:
    """transformers' configuration of the same language model. Its RoPE is not used, so none is described."""
    phi3 = Phi3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        sliding_window=None,  # the published windows are as long as the context
    )
    phi3._attn_implementation = attn_implementation
    return phi3


class RotaryEmbedding(nn.Module):
    """Positions -> cos and sin [B, T, D]; short or long factors row by row."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.inverse_frequencies = nn.Buffer(torch.from_numpy(rope.inverse_frequencies(config)), persistent=False)
        self.scale = rope.attention_scale(config)

    def forward(self, positions: torch.Tensor, use_long: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Angles in fp32, results in `dtype`."""
        frequencies = self.inverse_frequencies[use_long.long()]  # [B, D/2]
        angles = positions[:, :, None].float() * frequencies[:, None, :]
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self.scale).to(dtype), (angles.sin() * self.scale).to(dtype)
