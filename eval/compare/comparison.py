"""What a comparison of two runs holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from . import verdict
from .comparable import Difference
from .joined import Joined
from .measures import MetricRow
from .noise import Floor, Noise, measure_noise
from .notes import make_notes
from .parted_rows import PartedRow, count_causes
from .side import Side, make_side
from .trace import Direction
from .verdict import Decision, Gate

# The keys of `--json`, after schema, verdict and exit_status.
_REPORTED = (
    "decision", "a", "b", "joined", "differences", "notes", "metrics", "both_parsed", "by_category", "agreement", "outcomes",
    "inputs", "cause_counts", "parted", "noise", "floors", "near_tie", "seed", "resamples", "one_sided", "trace",
)  # fmt: skip


@dataclass
class Comparison:
    """Everything the report, the page and `--json` say. All shares are 0 to 1, all differences B - A."""

    decision: Decision
    differences: list[Difference]
    metrics: list[MetricRow]
    both_parsed: list[MetricRow]
    by_category: dict[str, list[MetricRow]]
    parted: list[PartedRow]  # worst first
    floors: list[Floor]
    near_tie: float  # nats
    seed: int
    resamples: int
    one_sided: bool
    trace: list[Direction] | None = None
    data: Joined = field(repr=False, kw_only=True)

    @property
    def verdict(self) -> str:
        """EQUIVALENT, DIFFERENT or INCONCLUSIVE; against a baseline NO WORSE, WORSE or INCONCLUSIVE."""
        return self.decision.verdict

    @property
    def reasons(self) -> list[str]:
        """One sentence for each gated measure."""
        return self.decision.reasons

    @property
    def gates(self) -> list[Gate]:
        """The measures the verdict rests on."""
        return self.decision.gates

    @property
    def exit_status(self) -> int:
        """0 EQUIVALENT or NO WORSE, 1 DIFFERENT or WORSE, 3 INCONCLUSIVE."""
        return verdict.EXIT_STATUS[self.verdict]

    @cached_property
    def a(self) -> Side:
        """The first run's part."""
        return make_side(self.data.run_a, self.data.columns_a, self.data.join.only_a)

    @cached_property
    def b(self) -> Side:
        """The second run's part."""
        return make_side(self.data.run_b, self.data.columns_b, self.data.join.only_b)

    @property
    def joined(self) -> int:
        """Products both runs have."""
        return len(self.data.join.ids)

    @cached_property
    def notes(self) -> list[str]:
        """What a reader must know before believing the figures."""
        return make_notes(self.data)

    @cached_property
    def agreement(self) -> dict[str, tuple[int, int]]:
        """Of text, tokens and fields read: (rows alike, rows that can tell)."""
        return self.data.agreement()

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Rows on which both runs, only A, only B, neither is right."""
        return self.data.outcome_counts()

    @cached_property
    def inputs(self) -> dict[str, tuple[int, int]]:
        """Of each input stage: (rows that differ, rows that can tell)."""
        return self.data.differing_inputs()

    @cached_property
    def cause_counts(self) -> dict[str, int]:
        """Rows of each cause."""
        return count_causes(self.parted)

    @cached_property
    def noise(self) -> Noise:
        """How far the two runs' numbers lie apart."""
        return measure_noise(self.data.columns_a, self.data.columns_b, self.data.join)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: everything but the columns. NaN and infinity become null."""
        values = {name: getattr(self, name) for name in _REPORTED}
        return _plain({"schema": 1, "verdict": self.verdict, "exit_status": self.exit_status, **values})


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as JSON; NaN and infinity as null."""
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
