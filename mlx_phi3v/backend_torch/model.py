"""Phi-3-V in torch: photo features and token embeddings -> decoder -> logits.

Shapes: B rows, T tokens, N crops, g merged grid of a crop, C tower width, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .. import rope
from ..checkpoint.layout import VISION
from ..config import CROPS_AT_ONCE, ModelArgs
from .checkpointing import checkpointed
from .decoder import DecoderLayer, RMSNorm, RotaryEmbedding, phi3_config
from .loss import summed_loss
from .vision import VisionModel


class Separator(nn.Module):
    """A learnt feature between rows (`sub_GN`) or images (`glb_GN`): [1, ..., 4C]."""

    def __init__(self, size: int, ndim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((1,) * (ndim - 1) + (size,)))

    def forward(self, like: torch.Tensor) -> torch.Tensor:
        """As one row [1, 4C] in the dtype of `like`."""
        return self.weight.reshape(1, -1).to(like.dtype)


def parameter_name(tensor: str) -> str:
    """Checkpoint key -> parameter name: the separators are modules that hold a `weight`."""
    return tensor + ".weight" if tensor in (VISION + "glb_GN", VISION + "sub_GN") else tensor


class ImageProcessorModule(nn.Module):
    """Only a name in the checkpoint: `img_processor.vision_model`."""

    def __init__(self, config: ModelArgs, attn_implementation: str) -> None:
        super().__init__()
        self.vision_model = VisionModel(config.vision, attn_implementation)


class ImageEmbedding(nn.Module):
    """Crops -> a table of projected features, from which every image token is one row."""

    def __init__(self, config: ModelArgs, attn_implementation: str) -> None:
        super().__init__()
        size = 4 * config.vision.hidden_size
        self.config = config
        self.img_processor = ImageProcessorModule(config, attn_implementation)
        self.glb_GN = Separator(size, 3)
        self.sub_GN = Separator(size, 4)
        self.img_projection = nn.Sequential(
            nn.Linear(size, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )

    def merge(self, features: torch.Tensor) -> torch.Tensor:
        """2x2 neighbours into one: [N, (2g)^2, C] -> [N * g^2, 4C]."""
        n, _, c = features.shape
        g = self.config.vision.merged_grid
        return features.reshape(n, g, 2, g, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n * g * g, 4 * c)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[N, 3, 336, 336] -> [N * g^2, 4C]; a few crops at a time where the tower does not train."""
        tower = self.img_processor.vision_model
        if any(parameter.requires_grad for parameter in tower.parameters()):
            return self.merge(tower(pixel_values))
        return torch.cat([self.merge(tower(chunk)) for chunk in pixel_values.split(CROPS_AT_ONCE)])

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Linear, GELU (erf), Linear: [rows, 4C] -> [rows, H]."""
        rows: torch.Tensor = self.img_projection(features)
        return rows

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[N, 3, 336, 336] -> [N * g^2 + 2, H]; the last two rows are `sub_GN` and `glb_GN`."""
        features = self.encode(pixel_values)
        return self.project(torch.cat([features, self.sub_GN(features), self.glb_GN(features)]))


class Phi3VModel(nn.Module):
    """Embeddings, decoder layers and final norm."""

    def __init__(self, config: ModelArgs, attn_implementation: str) -> None:
        super().__init__()
        self.config = config
        phi3 = phi3_config(config, attn_implementation)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision_embed_tokens = ImageEmbedding(config, attn_implementation)
        self.layers = nn.ModuleList(DecoderLayer(phi3, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.gradient_checkpointing = False

    def embed(self, input_ids: torch.Tensor, image_index: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Token embeddings [B, T, H] with the rows of `features` that `image_index` names (-1: text) in their place."""
        hidden: torch.Tensor = self.embed_tokens(input_ids.clamp(min=0))
        if features is None:
            return hidden
        images = features[image_index.clamp(min=0)].to(hidden.dtype)
        return torch.where((image_index >= 0)[..., None], images, hidden)

    def forward(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        lengths: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any = None,
        every_layer: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, T, H] -> final hidden states [B, T, H].

        positions: [B, T]; lengths: [B], tokens of each row so far, which choose the RoPE factors; mask: bool or
        additive [B, 1, T, S], None for causal; every_layer: collects the embeddings, each layer's output and the
        normed last one.
        """
        rotary = self.rotary_emb(positions, rope.uses_long_factor(self.config, lengths), hidden.dtype)
        for layer in self.layers:
            if every_layer is not None:
                every_layer.append(hidden)
            run = checkpointed(layer) if self.gradient_checkpointing and torch.is_grad_enabled() else layer
            hidden = run(hidden, attention_mask=mask, past_key_values=cache, position_embeddings=rotary)
        normed: torch.Tensor = self.norm(hidden)
        if every_layer is not None:
            every_layer.append(normed)
        return normed


class Phi3VForCausalLM(nn.Module):
    """The whole model; attribute paths are the checkpoint's keys."""

    def __init__(self, config: ModelArgs, attn_implementation: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.model = Phi3VModel(config, attn_implementation)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: torch.Tensor,  # [B, T], image k as -k
        positions: torch.Tensor,  # [B, T]
        lengths: torch.Tensor,  # [B]
        image_index: torch.Tensor,  # [B, T], the row of the feature table, -1 for text
        images: torch.Tensor,  # crops [N, 3, 336, 336], or their feature table [rows, H] where it is known
        mask: torch.Tensor | None = None,
        cache: Any = None,
        every_layer: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Photos and text -> final hidden states [B, T, H]; `lm_head` makes logits of them, `loss` the loss."""
        # Encode: CLIP, 2x2 merge, projector. One table row an image token, the separators' behind them.
        features = self.features(images)
        # Replace: every image token takes its row of the table, every other token its embedding.
        hidden: torch.Tensor = self.model.embed(input_ids, image_index, features)
        # Decode: Phi-3 over the whole text.
        hidden = self.model(hidden, positions, lengths, mask, cache, every_layer)
        return hidden

    def features(self, images: torch.Tensor) -> torch.Tensor | None:
        """The feature table [rows, H] of a batch's crops, or `images` itself where that is known; None without an image."""
        if images.ndim != 4:
            return images
        return self.model.vision_embed_tokens(images) if len(images) else None

    def loss(self, hidden: torch.Tensor, label_index: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy (fp32) of the tokens after the positions `label_index` of the flattened [B * T]."""
        return summed_loss(self.lm_head, hidden.reshape(-1, hidden.shape[-1])[label_index], targets)
