"""The scores of a batch's next tokens, and what is read of them: the likeliest tokens and their log-probabilities.

On a CPU the scores are numpy's (`HostScores`). On an accelerator they stay there, and only the numbers that are asked
for are copied: see `backend_mlx/next_tokens.py` and `backend_torch/next_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .sampling import Draws

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_WIDTHS = (64, 256)  # tokens of a group, least and most: the groups' maxima are then about as many as a group's tokens


@dataclass(frozen=True)
class NextTokens:
    """One token for each row, int64 [B], with its log-probability (nats, fp64 [B]), and the row's k likeliest tokens.

    The likeliest come in falling order, int64 and fp64 [B, k]; of equal ones the lower id comes first.
    """

    ids: Ints
    logprobs: Floats
    likeliest: Ints
    likeliest_logprobs: Floats

    def pairs(self, row: int, k: int | None = None) -> list[tuple[int, float]]:
        """A row's likeliest tokens as (id, log-probability), at most k of them."""
        return list(zip(self.likeliest[row, :k].tolist(), self.likeliest_logprobs[row, :k].tolist()))


class Scores(Protocol):
    """Logits of the next token, fp32 [B, V]."""

    def greedy(self) -> Any:
        """The likeliest token of each row, int [B], where the scores are; of equal ones the lower id."""

    def draw(self, draws: Draws) -> Any:
        """A token of each row as `sampling.Draws` says, int [B], where the scores are; any token where one is not finite."""

    def read(self, tokens: Any, k: int) -> NextTokens | None:
        """These tokens, from `greedy`, `draw` or int64 [B], with their log-probabilities and the k likeliest of each row.

        None where a score is not finite.
        """

    def rows(self, rows: Sequence[int]) -> Scores:
        """Those of some rows."""

    def join(self, *others: Any) -> Scores:
        """These rows and, behind them, those of others of the same kind."""

    def numpy(self) -> np.ndarray:
        """The logits, fp32 [B, V]."""


class HostScores:
    """See `Scores`. Logits in numpy, fp32 [B, V]."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def greedy(self) -> Ints:
        """See `Scores`."""
        ids: Ints = self.logits.argmax(axis=-1)
        return ids

    def draw(self, draws: Draws) -> Ints:
        """See `Scores`."""
        # Row by row: the weights of one stay in the processor's cache.
        return np.array([_draw(*row) for row in zip(self.logits, draws.columns)], np.int64)

    def read(self, tokens: Any, k: int) -> NextTokens | None:
        """See `Scores`."""
        if not np.isfinite(self.logits).all():
            return None
        ids, values = likeliest(self.logits, k)
        chosen = np.take_along_axis(self.logits, tokens[:, None], axis=-1)[:, 0]
        top, total = log_total(self.logits)
        return NextTokens(tokens, (chosen - top) - total, ids, (values - top[:, None]) - total[:, None])

    def rows(self, rows: Sequence[int]) -> HostScores:
        """See `Scores`."""
        return HostScores(self.logits[list(rows)])

    def join(self, *others: HostScores) -> HostScores:
        """See `Scores`."""
        return HostScores(np.concatenate([self.logits, *(other.logits for other in others)]))

    def numpy(self) -> np.ndarray:
        """See `Scores`."""
        return self.logits


def _draw(logits: np.ndarray, how: np.ndarray) -> int:
    """The next token of one row, from its logits [V] and its line of `Draws.columns`."""
    temperature, top_p, first, second = how
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(invalid="ignore"):  # scores that are not finite are found where the token is read
        weights = np.exp((logits - logits.max()) / temperature)
        if top_p < 1:
            weights = np.where(weights >= _least_in_nucleus(weights, float(top_p)), weights, 0)
    width = group_width(len(logits))
    groups = weights.reshape(-1, width)
    group = _place(groups.sum(axis=-1, dtype=np.float64), first)
    return group * width + _place(groups[group], second)


def _least_in_nucleus(weights: np.ndarray, top_p: float) -> float:
    """The smallest weight that counts, see `Draws`. Few tokens are sorted: all that weigh less than `rest` are outside."""
    total = float(weights.sum(dtype=np.float64))
    rest = (1 - top_p) * total / len(weights)
    ordered = np.sort(weights[weights > rest])[::-1]
    before = np.cumsum(ordered, dtype=np.float64) - ordered
    return float(ordered[before < top_p * total].min(initial=np.inf))


def _place(weights: np.ndarray, number: float) -> int:
    """The first place where the running sum is beyond that share of the whole; never one without weight if one has some."""
    running = np.cumsum(weights, dtype=np.float64)
    return int(np.argmax((weights > 0) * (1 + (running > number * running[-1]))))


def log_total(logits: np.ndarray) -> tuple[Floats, Floats]:
    """Over the last axis of fp32 [..., V]: the maximum m, and log sum exp(logits - m), each fp64 [...].

    A log-probability is (logit - m) - the second: the exponentials in fp32 cost it less than 1e-7 nats.
    """
    top: NDArray[np.float32] = logits.max(axis=-1)
    total: Floats = np.exp(logits - top[..., None]).sum(axis=-1, dtype=np.float64)
    return top.astype(np.float64), np.log(total)


def likeliest(logits: np.ndarray, k: int) -> tuple[Ints, Floats]:
    """The k largest of the last axis in falling order, of equal ones the lower index first: ids and values [..., k].

    Without sorting all of them: the k largest lie in the k groups of largest maxima.
    """
    *outer, vocabulary = logits.shape
    width = group_width(vocabulary)
    groups = logits.reshape(-1, vocabulary // width, width)
    k = min(k, vocabulary)
    chosen = np.sort(_first(groups.max(axis=-1), min(k, groups.shape[1])), axis=-1)  # in the order of ids
    candidates = np.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(len(groups), -1)
    places = _first(candidates, k)
    ids = np.take_along_axis(chosen, places // width, axis=-1) * width + places % width
    values = np.take_along_axis(candidates, places, axis=-1).astype(np.float64)
    return ids.reshape(*outer, k), values.reshape(*outer, k)


def _first(values: np.ndarray, k: int) -> Ints:
    return np.argsort(-values, axis=-1, kind="stable")[:, :k]


def group_width(vocabulary: int) -> int:
    """How many neighbouring tokens make a group: a divisor of the vocabulary, all of it where none is suitable."""
    least, most = _WIDTHS
    return next((width for width in range(most, least - 1, -1) if vocabulary % width == 0), vocabulary)
