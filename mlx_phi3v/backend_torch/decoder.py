"""Phi-3-mini's decoder layers in torch: transformers' own, with our RoPE. Shapes: B rows, T new tokens, D head width."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Phi3Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.phi3.modeling_phi3 import Phi3Attention as Attention
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer as DecoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3MLP as MLP
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm as RMSNorm

from .. import rope
from ..config import ModelArgs

__all__ = ["MLP", "Attention", "DecoderLayer", "RMSNorm", "RotaryEmbedding", "additive", "phi3_config"]


QUERIES = 256  # of a chunk at a time: their mask takes 67 MB of bf16 at 131,072 keys


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' "sdpa", whose causal mask knows no cached keys: queries [B, heads, T, D] behind S - T keys go by blocks.

    The attended values [B, T, heads, D], and nothing.
    """
    tokens, keys = query.shape[2], key.shape[2]
    if attention_mask is not None or tokens in (1, keys):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    done = []
    for start in range(0, tokens, QUERIES):
        block = query[:, :, start : start + QUERIES]
        seen = keys - tokens + start + block.shape[2]
        mask = block.new_full((block.shape[2], seen), -torch.inf).triu(seen - block.shape[2] + 1)
        done.append(sdpa_attention_forward(module, block, key[:, :, :seen], value[:, :, :seen], mask[None, None], **kwargs)[0])
    return torch.cat(done, dim=1), None


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask as transformers' "eager" attention takes it, which adds it to the scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


_SDPA = "sdpa_in_blocks"
AttentionInterface.register(_SDPA, attention)


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
    phi3._attn_implementation = _SDPA if attn_implementation == "sdpa" else attn_implementation
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
