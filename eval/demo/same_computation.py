"""Claim (a), the same computation: one model on two backends gives the same tokens, and log-probabilities apart by rounding.

It speaks of the arithmetic alone. Whether a training on one backend is as good as one on the other is claim (b), for which
several trainings on each are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..compare.comparison import Comparison

State = Literal["SHOWN", "NOT SHOWN", "NOT SETTLED"]


@dataclass(frozen=True)
class SameComputation:
    """What two backends' runs of one model show. Gaps are of log-probabilities, in nats, before each row's first difference."""

    state: State
    rows: int
    same: int  # rows with the same tokens
    recorded: int  # rows whose tokens both runs recorded
    mean: float | None
    largest: float | None
    floor_mean: float | None  # of the backend against itself at another batch size
    answer: bool | None  # of `compare.claims`; None where too little was recorded

    @property
    def tokens_line(self) -> str:
        """The answers that are the same token for token."""
        return f"the same tokens in {self.same:,} of {self.recorded:,} answers"

    def gap_line(self, reference: str) -> str:
        """The gap of the log-probabilities, held against what `reference` differs from itself at another batch size."""
        if self.mean is None or self.largest is None:
            return "log-probabilities not recorded"
        line = f"log-probabilities {self.mean:.1g} nats apart on average, {self.largest:.1g} at most"
        if not self.floor_mean:
            return line
        return f"{line}: {self.mean / self.floor_mean:.1f} times what {reference} differs from itself at batch size 1"


def same_computation(comparison: Comparison) -> SameComputation:
    """Judge a comparison of one model on two backends.

    Shown where the comparison's claim is answered by yes (`compare.claims`), it is EQUIVALENT and no guard is raised. Not
    settled where the rows are too few, or the model answers too badly for a verdict.
    """
    noise, answer = comparison.noise, comparison.claim.answer
    same, recorded = comparison.agreement["tokens"]
    floor = next((item.noise.mean for item in comparison.floors), None)
    if answer is False or comparison.raised or comparison.verdict in ("WORSE", "BETTER"):
        state: State = "NOT SHOWN"
    else:
        state = "SHOWN" if answer and comparison.verdict == "EQUIVALENT" else "NOT SETTLED"
    return SameComputation(state, comparison.joined, same, recorded, noise.mean, noise.largest, floor, answer)
