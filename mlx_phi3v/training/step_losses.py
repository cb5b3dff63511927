"""The losses of a step's passes, which may still be computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

from ..loader import Pass


class StepLosses:
    """Of a step on this rank. Reading one waits for it; after the update none does."""

    def __init__(self) -> None:
        self.tokens = 0  # answer tokens
        self._passes: list[tuple[Sequence[int], SupportsFloat]] = []

    def add(self, one: Pass, loss: SupportsFloat) -> None:
        """The loss of a pass with rows of this rank."""
        assert one.batch is not None
        self._passes.append((one.rows, loss))
        self.tokens += one.batch.answer_tokens

    def total(self) -> float:
        """Summed token loss (nats)."""
        return sum((float(loss) for _, loss in self._passes), 0.0)

    def not_finite(self) -> list[int]:
        """The rows of the passes whose loss is not finite."""
        return [row for rows, loss in self._passes if not math.isfinite(float(loss)) for row in rows]
