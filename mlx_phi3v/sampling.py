"""How the next token is chosen from its scores: the likeliest, or drawn with seeded numbers, the same on both backends.

A number depends on the seed, the row and the token's place in the answer, and on nothing else. So a row draws the same tokens
in any batch, on both backends, and after an interruption.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2  # how tokens are drawn; a run of 1, numpy's PCG64 in turn, drew others
_GREEDY = 1e-6  # temperature: below it no other token has a chance, and the division overflows
_MASK = 2**64 - 1
_BITS = 23  # of a number: so many, and a half more, are exact in fp32


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


class RowNumbers:
    """The random numbers of one row: a pure function of the seed, the row's id and the token's place in the answer.

    SplitMix64 (Steele, Lea and Flood, 2014), which finds any number without those before it; its state is a hash of seed
    and id.

    >>> RowNumbers(0, "p1").at(3) == RowNumbers(0, "p1").at(3) != RowNumbers(0, "p2").at(3)
    True
    """

    def __init__(self, seed: int, row: str) -> None:
        digest = hashlib.blake2b(f"{seed} {row}".encode(errors="surrogatepass"), digest_size=8).digest()
        self._state = int.from_bytes(digest, "little")

    def at(self, place: int) -> tuple[float, float]:
        """Two independent numbers between 0 and 1, neither of which is reached, each exact in fp32."""
        z = (self._state + (place + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
        low = z & (2**_BITS - 1)
        return ((z >> (64 - _BITS)) + 0.5) / 2**_BITS, (low + 0.5) / 2**_BITS


@dataclass(frozen=True)
class Draws:
    """How each row of a batch gets its next token.

    The weight of a token is exp((its logit - the largest) / temperature). With top_p below 1 a token counts only where all
    likelier ones together weigh less than top_p of the whole (nucleus sampling, Holtzman et al., 2020); of equal ones all
    count. The tokens are then drawn in two steps, as a sum over all of them in fp32 would not be exact enough: the first number
    chooses a group of `next_tokens.group_width` neighbouring tokens by its weight, the second one a token of the group.

    columns: fp32 [B, 4], the rows' temperatures (0 takes the likeliest token), top_p, first and second numbers.
    """

    columns: NDArray[np.float32]

    @property
    def all_greedy(self) -> bool:
        """Whether every row takes its likeliest token."""
        return not self.columns[:, 0].any()

    @property
    def any_greedy(self) -> bool:
        """Whether some row takes its likeliest token."""
        return not self.columns[:, 0].all()

    @property
    def any_nucleus(self) -> bool:
        """Whether some row draws from its likeliest tokens only."""
        return bool((self.columns[:, 1] < 1).any())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural-log probabilities over the last axis: fp [..., V] -> fp64 [..., V]."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.exp(shifted).sum(axis=-1, keepdims=True)
    return shifted - np.log(total)
