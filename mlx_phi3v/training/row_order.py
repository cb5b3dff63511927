"""Which rows form a step, and how a step is split into passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..batches import batch_rows
from .train_config import TrainConfig


@dataclass(frozen=True)
class RowOrder:
    """The rows of every step of a run. They are fixed when it begins; settings that only save memory do not change them.

    The rule. A run draws its rows in batches of the `batch_size` it began with, as `batches.batch_rows` gives them: a
    permutation for each epoch, whose last batch may be short. Step k is made of batches k * accumulation to
    (k + 1) * accumulation - 1, with the `grad_accumulation_steps` the run began with; it may take an epoch's short
    batch and the first ones of the next. Both numbers are in the checkpoint's state.json and hold for the whole run.

    How many rows go through the model in one pass is another matter: the --batch-size of the moment, or what
    --memory-limit chooses. Where it is the drawn batch size, the passes are the drawn batches. Where it is another,
    the step's rows are joined and split again. A step's gradient is the sum over its rows divided by its answer
    tokens, so its loss and update are the same to rounding however it is cut (with --lora-dropout, in distribution:
    each pass draws masks of its own).
    """

    rows: int
    batch_size: int
    accumulation: int
    seed: int
    tokens: np.ndarray | None = None  # int64 [rows]: rows of like length share a batch
    numbers: np.ndarray | None = None  # int64 [rows]: the rows drawn from, where some of the split are left out

    @property
    def rows_per_step(self) -> int:
        """Rows of a step in which no batch is short."""
        return self.batch_size * self.accumulation

    def total_steps(self, epochs: float) -> int:
        """Optimiser steps that `epochs` take, at least one."""
        batches = -(-self.rows // self.batch_size)
        return max(1, round(batches * epochs / self.accumulation))

    def steps(self, start: int = 0) -> Iterator[list[list[int]]]:
        """The drawn batches of step `start` and of every step after it, without end."""
        length = None if self.tokens is None else self.tokens.__getitem__
        batches = batch_rows(self.rows, self.batch_size, self.seed, start * self.accumulation, length)
        while True:
            drawn = [next(batches) for _ in range(self.accumulation)]
            yield drawn if self.numbers is None else [self.numbers[batch].tolist() for batch in drawn]

    def passes(self, start: int, rows_per_pass: int) -> Iterator[tuple[list[int], bool]]:
        """(rows of a pass, whether it is the last of its step) from step `start` on, without end."""
        for batches in self.steps(start):
            cut = batches if rows_per_pass == self.batch_size else _cut(batches, rows_per_pass)
            for i, rows in enumerate(cut, 1):
                yield rows, i == len(cut)


def total_steps(config: TrainConfig, rows: int) -> int:
    """Optimiser steps of a run over so many rows."""
    if config.max_steps is not None:
        return config.max_steps
    return RowOrder(rows, config.batch_size, config.grad_accumulation_steps, config.seed).total_steps(config.epochs)


def _cut(batches: list[list[int]], size: int) -> list[list[int]]:
    rows = [row for batch in batches for row in batch]
    return [rows[i : i + size] for i in range(0, len(rows), size)]
