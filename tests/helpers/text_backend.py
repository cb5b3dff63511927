"""A model without weights: its scores are a function of the text, so that a row that is mixed up with another is seen."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlx_phi3v.batches import Batch
from mlx_phi3v.next_tokens import HostScores, Scores
from mlx_phi3v.rope import uses_long_factor

VOCABULARY = 24


@dataclass
class TextCache:
    """Of each row what the model has read: every token with the RoPE factors that it was read with."""

    texts: list[list[tuple[int, bool]]]


class TextBackend:
    """As much of a `backend.Backend` as answers take. prefills, steps: the rows of each call so far."""

    name, dtype = "text", "float32"

    def __init__(self, *, on_device: bool = False, original: int = 10**6, longest: int = 10**6) -> None:
        self.scores_on_device = on_device
        self.config: Any = SimpleNamespace(original_max_position_embeddings=original, max_position_embeddings=longest)
        self.prefills: list[int] = []
        self.steps: list[int] = []

    def prefill(self, batch: Batch) -> tuple[Scores, Any]:
        """See `backend.Backend`."""
        self.prefills.append(len(batch.ids))
        texts = []
        for ids, real in zip(batch.input_ids, batch.attention_mask):
            text = ids[real].tolist()
            texts.append([(token, bool(uses_long_factor(self.config, len(text)))) for token in text])
        return self._scores(texts), TextCache(texts)

    def decode(self, cache: TextCache, tokens: Any) -> Scores:
        """See `backend.Backend`."""
        self.steps.append(len(tokens))
        assert len(tokens) == len(cache.texts) > 0
        for text, token in zip(cache.texts, tokens):
            text.append((int(token), bool(uses_long_factor(self.config, len(text) + 1))))
        return self._scores(cache.texts)

    def keep_rows(self, cache: TextCache, rows: list[int]) -> None:
        """See `backend.Backend`."""
        cache.texts = [cache.texts[row] for row in rows]

    def join(self, cache: TextCache, *others: TextCache) -> None:
        """See `backend.Backend`."""
        for other in others:
            cache.texts += other.texts
            other.texts = []

    def _scores(self, texts: list[list[tuple[int, bool]]]) -> Scores:
        seeds = [zlib.crc32(repr(text).encode()) for text in texts]
        return HostScores(np.stack([np.random.default_rng(seed).standard_normal(VOCABULARY, np.float32) for seed in seeds]))
