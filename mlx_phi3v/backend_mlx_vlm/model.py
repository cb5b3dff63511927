"""The model as mlx-vlm calls it: embeddings first, then the language model with mlx-vlm's caches.

Shapes: B rows, T new tokens, S tokens so far with their padding, N crops of all photos, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import InputEmbeddingsFeatures, LanguageModelOutput, dequantize_kv_state
from mlx_vlm.models.cache import KVCache

from ..backend_mlx.decoder import DecoderLayer
from ..backend_mlx.model import Phi3VModel, parameter_name
from ..checkpoint.layout import EMBEDDING_COPY, is_unused
from ..crops import encoded_crops, image_token_index
from ..rope import uses_long_factor
from .config import ModelArgs, ModelConfig
from .history import Cached, History


class PlainCache:
    """A layer's cache that hands back plain arrays, whatever form it stores keys and values in."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def update_and_fetch(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Append [B, heads, T, D]; those of all tokens so far, [B, heads, S, D]."""
        k, v = dequantize_kv_state(self.cache, *self.cache.update_and_fetch(k, v))
        return k, v


def feature_index(input_ids: np.ndarray, grids: Sequence[Sequence[int]], args: ModelArgs) -> np.ndarray:
    """The row of the feature table that each image token takes, -1 for text: int64 [B, T].

    grids: (h, w) in crops of each photo, those of the first row of ids first. Raises ValueError where there are more or fewer.
    """
    total = sum(encoded_crops((h, w)) for h, w in grids)
    index = np.full(input_ids.shape, -1, np.int64)
    photos, first_crop = iter(grids), 0
    for row, ids in enumerate(input_ids):
        for k in range(1, int(-min(ids.min(), 0)) + 1):
            h, w = next(photos, (0, 0))
            where = np.flatnonzero(ids == -k)
            if not h:
                raise ValueError("the prompt names more photos than were given")
            last_crop = first_crop + encoded_crops((h, w)) - 1
            source = image_token_index((h, w), first_crop, last_crop, total, args.vision, args.hd_transform_order)
            if not len(where) or len(where) % len(source):
                raise ValueError(f"the prompt has {len(where)} ids of photo {k}, which takes {len(source)}")
            index[row, where] = np.tile(source, len(where) // len(source))  # a tag may appear twice
            first_crop = last_crop + 1
    if first_crop != total:
        raise ValueError("more photos were given than the prompt names")
    return index


def causal_mask(cached: Cached, after: Cached) -> mx.array | str | None:
    """The mask of the columns after `cached`: bool [B, 1, T, S] where rows are padded on the left, else "causal" or None."""
    new = after.columns - cached.columns
    padding = after.columns - after.lengths
    if not padding.any():
        return "causal" if new > 1 else None
    query, key = mx.arange(cached.columns, after.columns)[:, None], mx.arange(after.columns)[None]
    seen = (key <= query) & (key >= mx.array(padding)[:, None, None])
    return (seen | (key == query))[:, None]  # padding sees itself, so that no softmax is empty


class Model(nn.Module):
    """Phi-3-V with mlx-vlm's names; attribute paths are the checkpoint's keys."""

    supports_logits_to_keep = True  # LM Studio's engine asks

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model_type = config.model_type
        self.model = Phi3VModel(config.args)
        self.lm_head = nn.Linear(config.args.hidden_size, config.args.vocab_size, bias=False)

    @property
    def language_model(self) -> Self:
        """Itself: tower and projector are parts of it."""
        return self

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder's layers."""
        return self.model.layers

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.config.args.head_dim

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads."""
        return self.config.args.num_key_value_heads

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Checkpoint keys -> parameters; without what the model never reads."""
        used = {name: value for name, value in weights.items() if not is_unused(name, self.config.args)}
        used.pop(EMBEDDING_COPY, None)
        return {parameter_name(name): value for name, value in used.items()}

    def make_cache(self) -> list[Any]:
        """A cache for each layer, and those of `History`."""
        return [KVCache() for _ in range(len(self.layers) + History.layers(self.config.args))]

    def chunked_prefill_policy(self, *, inputs_embeds: mx.array, **_: Any) -> bool:
        """Whether a prompt is read in pieces: only past the original context, for the memory that it takes."""
        return bool(uses_long_factor(self.config.args, inputs_embeds.shape[1]))

    def get_input_embeddings(
        self,
        input_ids: mx.array,
        pixel_values: mx.array | None = None,
        mask: mx.array | None = None,
        image_grids: Sequence[Sequence[int]] | None = None,
        vision_cache: Any = None,
        _image_key: str | None = None,
        **_: Any,
    ) -> InputEmbeddingsFeatures:
        """Embeddings [B, T, H] of ids [B, T] (photo k as -k) with the features of crops [N, 3, 336, 336] in their places.

        image_grids: see `feature_index`; vision_cache and _image_key: where the server keeps features of a photo it saw.
        Raises ValueError where ids and photos do not fit, or the photos were processed by another processor than ours.
        """
        ids = np.array(input_ids, dtype=np.int64)
        if pixel_values is None:
            if (ids < 0).any():
                raise ValueError("the prompt names photos, but their pixels were not given; a cached prompt was cut inside one")
            return InputEmbeddingsFeatures(inputs_embeds=self.model.embed_tokens(input_ids))
        if image_grids is None:
            raise ValueError("the photos were not processed by this model's own processor; load it with mlx_vlm.load")
        index = feature_index(ids, image_grids, self.config.args)
        features = None if vision_cache is None else vision_cache.get(_image_key)
        if features is None:
            features = self.model.vision_embed_tokens(pixel_values)
            if vision_cache is not None:
                vision_cache.put(_image_key, features)
        return InputEmbeddingsFeatures(inputs_embeds=self.model.embed(input_ids, mx.array(index), features))

    def __call__(
        self,
        inputs: mx.array,
        inputs_embeds: mx.array | None = None,
        pixel_values: mx.array | None = None,
        mask: mx.array | None = None,
        cache: list[Any] | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> LanguageModelOutput:
        """Logits [B, T, V] of ids or embeddings, of the last `logits_to_keep` positions alone where it is not 0."""
        if inputs_embeds is None and pixel_values is None:
            inputs_embeds = self.model.embed_tokens(inputs)  # of decoding: nothing here waits for the device
        elif inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings(inputs, pixel_values, mask, **kwargs).inputs_embeds
        hidden = self.hidden_states(inputs_embeds, cache)
        return LanguageModelOutput(logits=self.lm_head(hidden[:, -logits_to_keep:]))

    def hidden_states(self, embeddings: mx.array, cache: list[Any] | None) -> mx.array:
        """Embeddings [B, T, H] behind what is cached -> final hidden states [B, T, H].

        A row whose text changes to other RoPE factors than its keys have is computed again from its first token.
        """
        rows, new, _ = embeddings.shape
        if not cache:
            nothing = Cached(0, np.zeros(rows, np.int64), np.zeros(rows, bool))
            return self._run(embeddings, nothing, None)
        history = History(cache[len(self.layers) :], self.config.args)
        cached = history.cached(rows)
        if cached.columns and (uses_long_factor(self.config.args, cached.lengths + new) != cached.long).any():
            embeddings = mx.concatenate([history.embeddings(), embeddings], axis=1)
            for entry in cache:
                if entry.trim(cached.columns) != cached.columns:
                    raise ValueError(f"{type(entry).__name__} cannot be emptied, which a text needs at the end of its context")
            cached = Cached(0, cached.lengths - cached.columns, cached.long)
        return self._run(embeddings, cached, cache)[:, -new:]

    def _run(self, embeddings: mx.array, cached: Cached, cache: list[Any] | None) -> mx.array:
        new = embeddings.shape[1]
        lengths = cached.lengths + new
        after = Cached(cached.columns + new, lengths, uses_long_factor(self.config.args, lengths))
        positions = np.maximum(cached.lengths[:, None] + np.arange(new), 0)
        layers = [PlainCache(entry) for entry in cache[: len(self.layers)]] if cache else None
        mask = causal_mask(cached, after)
        hidden = self.model(embeddings, mx.array(positions), mx.array(lengths), mask, layers)
        if cache:
            History(cache[len(self.layers) :], self.config.args).append(embeddings, after)
        return hidden
