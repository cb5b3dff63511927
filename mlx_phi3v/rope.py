"""Long-RoPE ("su"): inverse frequencies and scale, as the published Phi3SuScaledRotaryEmbedding computes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .config import ModelArgs


def inverse_frequencies(config: ModelArgs) -> np.ndarray:
    """Rows 0 (short) and 1 (long) of inverse frequencies, fp32 [2, head_dim / 2].

    inv_freq = 1 / (factor * theta^(2i/d)); without `rope_scaling` both rows are plain RoPE.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    base = np.float32(config.rope_theta) ** exponent
    rows = [np.ones_like(base) if f is None else np.asarray(f, np.float32) for f in (config.short_factor, config.long_factor)]
    return np.stack([np.float32(1.0) / (row * base) for row in rows])


def attention_scale(config: ModelArgs) -> float:
    """The factor on cos and sin: sqrt(1 + ln(max/orig) / ln(orig)), 1 where max <= orig or without scaling."""
    ratio = config.max_position_embeddings / config.original_max_position_embeddings
    if config.short_factor is None or ratio <= 1:
        return 1.0
    return math.sqrt(1 + math.log(ratio) / math.log(config.original_max_position_embeddings))


def uses_long_factor(config: ModelArgs, length: Any) -> Any:
    """Whether a text of `length` tokens (max position + 1) takes the long factors; works on numbers and arrays.

    The published code picks once for a whole call of batch 1; here each row picks for itself, so that a row's
    result does not depend on its neighbours.
    """
    return length > config.original_max_position_embeddings
