"""How the next token is chosen from its scores: the likeliest, or drawn with seeded numbers, the same on both backends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GREEDY = 1e-6  # temperature: below it no other token has a chance, and the division overflows


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature: 0 takes the likeliest token. top_k_logged: likeliest tokens to record."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k_logged: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature <= _GREEDY


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural-log probabilities over the last axis: fp [..., V] -> fp64 [..., V]."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.exp(shifted).sum(axis=-1, keepdims=True)
    return shifted - np.log(total)


def choose(logprobs: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token of one row from its log-probabilities [V]: greedy, or nucleus sampling (Holtzman et al., 2020)."""
    if sampling.greedy:
        return int(logprobs.argmax())
    weights = np.exp(log_softmax(logprobs / sampling.temperature))
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= sampling.top_p]] = 0
    return int(random.choice(len(weights), p=weights / weights.sum()))
