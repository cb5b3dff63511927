"""Phi-3-V in MLX: photo features and token embeddings -> decoder -> logits.

Shapes: B rows, T tokens, N crops, g merged grid of a crop, C tower width, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import rope
from ..checkpoint.layout import VISION
from ..config import CROPS_AT_ONCE, ModelArgs
from . import ops
from .arrays import trains
from .checkpointing import checkpointed
from .decoder import DecoderLayer, RotaryEmbedding
from .loss import summed_loss
from .vision import VisionModel


class Separator(nn.Module):
    """A learnt feature between rows (`sub_GN`) or images (`glb_GN`): [1, ..., 4C]."""

    def __init__(self, size: int, ndim: int) -> None:
        super().__init__()
        self.weight = mx.zeros((1,) * (ndim - 1) + (size,))

    def __call__(self, like: mx.array) -> mx.array:
        """As one row [1, 4C] in the dtype of `like`."""
        return self.weight.reshape(1, -1).astype(like.dtype)


def parameter_name(tensor: str) -> str:
    """Checkpoint key -> parameter name: the separators are modules that hold a `weight`."""
    return tensor + ".weight" if tensor in (VISION + "glb_GN", VISION + "sub_GN") else tensor


class ImageProcessorModule(nn.Module):
    """Only a name in the checkpoint: `img_processor.vision_model`."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.vision_model = VisionModel(config.vision)


class ImageEmbedding(nn.Module):
    """Crops -> a table of projected features, from which every image token is one row."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        size = 4 * config.vision.hidden_size
        self.config = config
        self.img_processor = ImageProcessorModule(config)
        self.glb_GN = Separator(size, 3)
        self.sub_GN = Separator(size, 4)
        self.img_projection = [
            nn.Linear(size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        ]

    def merge(self, features: mx.array) -> mx.array:
        """2x2 neighbours into one: [N, (2g)^2, C] -> [N * g^2, 4C]."""
        n, _, c = features.shape
        g = self.config.vision.merged_grid
        return features.reshape(n, g, 2, g, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n * g * g, 4 * c)

    def encode(self, pixel_values: mx.array) -> mx.array:
        """[N, 3, 336, 336] -> [N * g^2, 4C]; a few crops at a time where the tower does not train."""
        tower = self.img_processor.vision_model
        if trains(tower):
            return self.merge(tower(pixel_values))
        chunks: list[mx.array] = []
        for start in range(0, len(pixel_values), CROPS_AT_ONCE):
            # MLX: each chunk waits for the one before it, else all would be in memory together.
            [crops] = mx.depends([pixel_values[start : start + CROPS_AT_ONCE]], chunks[-1:])
            chunks.append(self.merge(tower(crops)))
        return mx.concatenate(chunks)

    def project(self, features: mx.array) -> mx.array:
        """Linear, GELU (erf), Linear: [rows, 4C] -> [rows, H]."""
        for layer in self.img_projection:
            features = layer(features)
        return features

    def __call__(self, pixel_values: mx.array) -> mx.array:
        """[N, 3, 336, 336] -> [N * g^2 + 2, H]; the last two rows are `sub_GN` and `glb_GN`."""
        features = self.encode(pixel_values)
        return self.project(mx.concatenate([features, self.sub_GN(features), self.glb_GN(features)]))


class Phi3VModel(nn.Module):
    """Embeddings, decoder layers and final norm."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision_embed_tokens = ImageEmbedding(config)
        self.layers = [DecoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.gradient_checkpointing = False

    def embed(self, input_ids: mx.array, image_index: mx.array, features: mx.array | None) -> mx.array:
        """Token embeddings [B, T, H] with the rows of `features` that `image_index` names (-1: text) in their place."""
        hidden: mx.array = self.embed_tokens(mx.maximum(input_ids, 0))
        if features is None:
            return hidden
        images = features[mx.maximum(image_index, 0)].astype(hidden.dtype)
        return mx.where((image_index >= 0)[..., None], images, hidden)

    def __call__(
        self,
        hidden: mx.array,
        positions: mx.array,
        lengths: mx.array,
        mask: mx.array | str | None,
        cache: list[Any] | None = None,
        every_layer: list[mx.array] | None = None,
    ) -> mx.array:
        """Embeddings [B, T, H] -> final hidden states [B, T, H].

        positions: [B, T]; lengths: [B], tokens of each row so far, which choose the RoPE factors; mask: "causal",
        bool [B, 1, T, S] or None; every_layer: collects the embeddings, each layer's output and the normed last one.
        """
        cos, sin = self.rotary_emb(positions, rope.uses_long_factor(self.config, lengths), hidden.dtype)
        for i, layer in enumerate(self.layers):
            if every_layer is not None:
                every_layer.append(hidden)
            run = checkpointed(layer) if self.gradient_checkpointing else layer
            hidden = run(hidden, cos, sin, mask, cache[i]) if cache else run(hidden, cos, sin, mask)
        normed: mx.array = self.norm(hidden)
        if every_layer is not None:
            every_layer.append(normed)
        return normed


class Phi3VForCausalLM(nn.Module):
    """The whole model; attribute paths are the checkpoint's keys."""

    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.config = config
        self.model = Phi3VModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def __call__(
        self,
        input_ids: mx.array,  # [B, T], image k as -k
        positions: mx.array,  # [B, T]
        lengths: mx.array,  # [B]
        image_index: mx.array,  # [B, T], the row of the feature table, -1 for text
        images: mx.array,  # crops [N, 3, 336, 336], or their feature table [rows, H] where it is known
        mask: mx.array | str | None = "causal",
        cache: list[Any] | None = None,
        every_layer: list[mx.array] | None = None,
    ) -> mx.array:
        """Photos and text -> final hidden states [B, T, H]; `lm_head` makes logits of them, `loss` the loss."""
        # Encode: CLIP, 2x2 merge, projector. One table row an image token, the separators' behind them.
        features = self.features(images)
        # Replace: every image token takes its row of the table, every other token its embedding.
        hidden = self.model.embed(input_ids, image_index, features)
        # Decode: Phi-3 over the whole text.
        return self.model(hidden, positions, lengths, mask, cache, every_layer)

    def features(self, images: mx.array) -> mx.array | None:
        """The feature table [rows, H] of a batch's crops, or `images` itself where that is known; None without an image."""
        if images.ndim != 4:
            return images
        return self.model.vision_embed_tokens(images) if len(images) else None

    def loss(self, hidden: mx.array, label_index: mx.array, targets: mx.array) -> mx.array:
        """Summed cross-entropy (fp32) of the tokens after the positions `label_index` of the flattened [B * T]."""
        return summed_loss(self.lm_head, hidden.reshape(-1, hidden.shape[-1])[label_index], targets)
