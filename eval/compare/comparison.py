"""What a comparison of two runs holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from . import verdict
from .comparable import Difference
from .measures import Joined, MetricRow
from .noise import Floor, Noise
from .trace import Direction
from .verdict import Decision, Gate


@dataclass(frozen=True)
class PartedRow:
    """A product on which the runs part, with its one cause."""

    id: str
    cause: str
    detail: str
    reading: str  # the fields read differently: "full_price 120.0 | 12.0"
    position: int | None
    margin: float | None
    outcome: str
    category: str | None
    severity: float


@dataclass(frozen=True)
class Side:
    """One run's part in a comparison."""

    label: str
    path: str
    manifest: dict[str, Any]
    rows: int
    only: list[str]  # ids the other run lacks
    duplicates: list[tuple[str, bool]]  # (id, whether both say the same)
    finished: bool
    seconds: float
    rows_per_second: float | None
    statuses: dict[str, dict[str, int]]  # field -> parse status -> rows
    confusion: dict[str, dict[str, dict[str, int]]]  # category field -> true -> predicted -> rows


@dataclass
class Comparison:
    """Everything the report, the page and `--json` say. All shares are 0 to 1, all differences B - A."""

    decision: Decision
    a: Side
    b: Side
    joined: int
    differences: list[Difference]
    notes: list[str]
    metrics: list[MetricRow]
    both_parsed: list[MetricRow]
    by_category: dict[str, list[MetricRow]]
    agreement: dict[str, tuple[int, int]]  # what -> (rows alike, rows that can tell)
    outcomes: dict[str, int]
    inputs: dict[str, tuple[int, int]]  # stage -> (rows that differ, rows that can tell)
    cause_counts: dict[str, int]
    parted: list[PartedRow]  # worst first
    noise: Noise
    floors: list[Floor]
    near_tie: float
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: everything but the columns. NaN and infinity become null."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}
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
