"""Throughput of training steps: rows, seconds, waiting and padding, of the last steps and of all."""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Throughput:
    """Rows and seconds of some steps. positions: tokens and padding of this rank's batches; waited: seconds without a batch."""

    rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    positions: int = 0
    padding: int = 0

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def rows_per_second(self) -> float:
        """Rows a second, with the time that photos take to load."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the time in which the model had no batch."""
        return self.waited / max(self.seconds, 1e-9)

    @property
    def padding_share(self) -> float:
        """Share of the positions that are padding."""
        return self.padding / max(self.positions, 1)


class ThroughputMeter:
    """The steps of a run: the last `window` of them, and all."""

    def __init__(self, window: int) -> None:
        self._recent: deque[Throughput] = deque(maxlen=window)
        self.whole = Throughput()

    def add(self, taken: Throughput) -> None:
        """Count one step."""
        self._recent.append(taken)
        self.whole = self.whole + taken

    @property
    def recent(self) -> Throughput:
        """The last steps together."""
        return sum(self._recent, Throughput())
