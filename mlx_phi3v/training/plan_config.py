"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..cli import option
from ..ranges import MAX_TOKENS
from .train_config import TrainConfig


@dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """Settings of a training run, and what its photos look like."""

    data: Path | None = option(
        None, help="catalogue; its train split gives photo sizes and text lengths", heading="Model and data"
    )  # type: ignore[assignment]  # training needs a catalogue, a plan does not
    output: Path = option(Path("runs"), help="ignored; so that a training run's YAML can be given as it is")
    photo: str = option("1000x1000", help="WIDTHxHEIGHT of a photo in pixels, where there is no --data", heading="Plan")
    context: int | None = option(
        None, help="tokens of a prompt to answer; by default as many as the model has positions", at_least=1, at_most=MAX_TOKENS
    )
    gflops: float | None = option(None, help="matrix-product speed of the machine, GFLOP/s; by default measured here", above=0)
