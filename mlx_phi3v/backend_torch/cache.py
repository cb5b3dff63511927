"""The KV cache of a batch in torch, transformers' own. Shapes: B rows, S tokens so far with their padding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache


@dataclass
class Cache:
    """KV cache of a batch. valid: bool [B, S], False on padding; lengths: int64 [B], tokens of each row so far."""

    layers: DynamicCache
    valid: np.ndarray
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = self.valid.sum(1)

    def append(self) -> None:
        """One token more in every row; its keys and values are the layers' to add."""
        self.valid = np.concatenate([self.valid, np.ones((len(self.valid), 1), bool)], axis=1)
        self.lengths = self.lengths + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows."""
        self.layers.batch_select_indices(torch.tensor(rows))
        self.valid = self.valid[rows]
        self.lengths = self.lengths[rows]


def prefill_mask(valid: np.ndarray) -> np.ndarray:
    """Mask of left-padded prompts, bool [B, 1, T, T]; padding sees itself so that no softmax is empty."""
    causal = np.tril(np.ones((valid.shape[1],) * 2, bool))
    allowed: np.ndarray = causal & (valid[:, None, None, :] | ~valid[:, None, :, None])
    return allowed
