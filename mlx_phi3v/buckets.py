"""Batches padded to a few shapes, so that a compiled step is compiled once for each of them.

What is padded counts nothing: a token behind the end of its row, a label that is ignored, a feature and a crop that no token
takes. Letters as in `batches`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .batches import Batch
from .config import ModelArgs
from .prompts import IGNORE


def bucket(size: int, least: int, an_octave: int) -> int:
    """The smallest of the sizes that holds `size`: multiples of `least`, and at most `an_octave` from a size to its double."""
    octave = 1 << max(size - 1, 1).bit_length() - 1
    step = max(least, octave // an_octave)
    return max(1, -(-size // step)) * step


def token_bucket(tokens: int) -> int:
    """At most an eighth longer (or 31 tokens): all arithmetic of the language model grows by it."""
    return bucket(tokens, 32, 8)


def label_bucket(labels: int) -> int:
    """At most twice as many: their logits are little work beside the layers of all tokens."""
    return bucket(labels, 32, 1)


def crop_bucket(crops: int) -> int:
    """At most a quarter more."""
    return bucket(crops, 1, 4)


def feature_bucket(rows: int, tokens: int) -> int:
    """Features that a batch of `rows` padded to `tokens` takes at most: one a token, and the separators' two."""
    return rows * tokens + 2


def computed_positions(batch: Batch, *, compiled: bool) -> int:
    """Positions that a pass computes, padding included."""
    rows, tokens = map(int, batch.input_ids.shape)
    return rows * (token_bucket(tokens) if compiled else tokens)


def padded(batch: Batch, config: ModelArgs, *, crops: bool) -> Batch:
    """The batch with its tokens, its feature table and, with `crops`, its crops padded to a bucket."""
    rows, length = batch.input_ids.shape
    tokens = token_bucket(length)
    batch = _more_tokens(batch, tokens - length)
    if batch.features is not None:
        behind = max(0, feature_bucket(rows, tokens) - len(batch.features))  # 0: some that no token takes
        return replace(batch, features=np.pad(batch.features, ((0, behind), (0, 0))))
    return _more_crops(batch, config) if crops and len(batch.pixel_values) else batch


def _more_tokens(batch: Batch, behind: int) -> Batch:
    def longer(array: np.ndarray, value: int | bool) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, behind)), constant_values=value)

    return replace(
        batch,
        input_ids=longer(batch.input_ids, 0),
        labels=longer(batch.labels, IGNORE),
        attention_mask=longer(batch.attention_mask, False),
        positions=np.pad(batch.positions, ((0, 0), (0, behind)), mode="edge"),
        image_index=longer(batch.image_index, -1),
    )


def _more_crops(batch: Batch, config: ModelArgs) -> Batch:
    """Empty crops behind the others, and the separators, which follow the crops' features, as much further behind."""
    crops, each = len(batch.pixel_values), config.vision.merged_grid**2
    more = crop_bucket(crops) - crops
    return replace(
        batch,
        pixel_values=np.pad(batch.pixel_values, ((0, more), (0, 0), (0, 0), (0, 0))),
        image_index=np.where(batch.image_index >= crops * each, batch.image_index + more * each, batch.image_index),
    )
