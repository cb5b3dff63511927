"""What every comparison has: its verdict, with the guards and simple predictors beside it, and the exit status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from . import verdict
from .guards import Guard
from .simple_predictors import SimpleCheck, shortfalls
from .verdict import Decision, Gate

# Keys of the JSON report (schema 1) that are not called as the attributes.
JSON_KEYS = {"diverged": "parted", "times_diverged": "times_parted", "parsed_differently": "reading"}


class Judged:
    """A comparison with a verdict. `guards_count`: whether a raised guard keeps the exit status from being 0."""

    decision: Decision
    guards: list[Guard]  # the raised ones first
    simple: list[SimpleCheck]
    guards_count: bool

    @property
    def verdict(self) -> str:
        """One of `verdict.Verdict`."""
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
        """0 EQUIVALENT or NO WORSE, 1 WORSE, BETTER or a guard raised, 3 INCONCLUSIVE, 4 NOT MEANINGFUL."""
        status = verdict.EXIT_STATUS[self.verdict]
        return 1 if not status and self.guards_count and self.raised else status

    @property
    def raised(self) -> list[Guard]:
        """The guards that are raised, without the categories that tell no more than the measure of all rows does."""
        worse = {(gate.field, gate.metric) for gate in self.gates if gate.state == "worse"}
        raised = [guard for guard in self.guards if guard.raised]
        whole = {(guard.field, guard.metric): guard.difference for guard in raised if guard.category is None}
        return [
            guard
            for guard in raised
            if guard.category is None
            or ((guard.field, guard.metric) not in worse and _apart(guard.difference, whole.get((guard.field, guard.metric))))
        ]

    @property
    def shortfalls(self) -> list[SimpleCheck]:
        """Where the verdict is NOT MEANINGFUL: which run does not beat which simple predictor."""
        if self.verdict != "NOT MEANINGFUL":
            return []
        return shortfalls(self.simple, as_good=False) or shortfalls(self.simple, as_good=True)


def _apart(of_category: float, of_all: float | None) -> bool:
    """Whether a category differs otherwise than all rows do, where they do: the other way, or more than twice as much."""
    return of_all is None or of_category * of_all < 0 or abs(of_category) > 2 * abs(of_all)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as JSON; NaN and infinity as null."""
    if is_dataclass(value):
        shown = (item for item in fields(value) if item.metadata.get("json", True))
        return {JSON_KEYS.get(item.name, item.name): plain(getattr(value, item.name)) for item in shown}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
