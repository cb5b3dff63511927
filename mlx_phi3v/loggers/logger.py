"""What a logger is given, and the one protocol that W&B, TensorBoard and trackio are behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Status = Literal["finished", "failed", "interrupted"]
Cell = str | float | bool | None


@dataclass(frozen=True)
class RunInfo:
    """The run that a logger opens.

    id: the same after a resume and for each logger. folder: the training's output. begun: it was opened before.
    step: the steps of the training that are done. goes_on: more follow, and what a logger holds of later ones belongs to a
    killed process; else something is added to a run that has ended.
    """

    id: str
    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    begun: bool = False
    step: int = 0
    goes_on: bool = True


@dataclass(frozen=True)
class AnsweredRow:
    """A validation row with its answer. picture: its photos side by side, uint8 [H, W, 3]; None where it has none.

    cells: what the columns hold, the parsed values beside the true ones.
    """

    id: str
    picture: np.ndarray | None
    answer: str
    truth: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Answers:
    """The answers to some validation rows after a step, and what follows from them (`measures`, such as an accuracy)."""

    step: int
    rows: tuple[AnsweredRow, ...]
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the cells."""
        return tuple(self.rows[0].cells) if self.rows else ()


@dataclass(frozen=True)
class Verdict:
    """What a comparison found. name: of the comparison; word: such as EQUIVALENT; lines: its report as text.

    measures: figures by name. page: the HTML report; None where it was not written.
    """

    name: str
    word: str
    lines: str
    measures: Mapping[str, float] = field(default_factory=dict)
    page: Path | None = None


class Logger(Protocol):
    """One open run of one library. Every method may raise or hang: `worker.Worker` keeps that from the training."""

    rewinds: bool  # whether opening the run again drops what it holds of later steps

    def held(self) -> int | None:
        """The last step that it holds, of a run that was opened before; None where it cannot say."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures after a step."""

    def answers(self, table: Answers) -> None:
        """A table of answers with their photos."""

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """The files of an adapter, as an artifact; `folder` is removed afterwards."""

    def verdict(self, verdict: Verdict) -> None:
        """What a comparison found about this run's adapter."""

    def close(self, status: Status) -> None:
        """Write what is left, and end."""

    def where(self) -> str:
        """Where the user sees the run: an address, or a command."""
