"""The rows on which two runs part, each with its one cause, the worst first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..runs.columns import Bools, FieldColumn, Floats
from ..runs.prediction import Prediction
from . import divergence, metrics
from .joined import Joined


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


def explain_rows(data: Joined, near_tie: float) -> list[PartedRow]:
    """The rows on which the runs part, worst first: a side changed from right to wrong, then the widest gap."""
    sampled = any((run.manifest.get("settings") or {}).get("temperature") for run in (data.run_a, data.run_b))
    severity = _severities(data)
    numbers = np.flatnonzero(_differing(data)).tolist()
    found = [
        _explain_row(data, i, a, b, float(severity[i]), near_tie, sampled) for i, (a, b) in zip(numbers, data.rows(numbers))
    ]
    return sorted(found, key=lambda row: (-row.severity, -(row.margin or 0.0), row.id))


def count_causes(parted: list[PartedRow]) -> dict[str, int]:
    """Cause -> rows, in the order of `divergence.CAUSES`."""
    counts = Counter(row.cause for row in parted)
    return {cause: counts[cause] for cause in divergence.CAUSES if counts[cause]}


def _differing(data: Joined) -> Bools:
    """Which joined rows differ in answer, reading or truth [n]."""
    differing = np.zeros(len(data.join.ids), dtype=bool)
    for name in ("text", "tokens", "predicted", "true"):
        left, right = data.digests(name)
        differing |= (left != right) & (left != 0) & (right != 0)
    return differing


def _explain_row(
    data: Joined, i: int, a: Prediction, b: Prediction, severity: float, near_tie: float, sampled: bool
) -> PartedRow:
    parting = divergence.explain_divergence(a, b, near_tie=near_tie, sampled=sampled)
    return PartedRow(
        id=data.join.ids[i],
        cause=parting.cause,
        detail=parting.detail,
        reading=divergence.fields_parsed_differently(a, b),
        position=parting.position,
        margin=parting.margin,
        outcome=data.outcome(i),
        category=data.category[i],
        severity=severity,
    )


def _severities(data: Joined) -> Floats:
    """How much two readings differ in score, row by row [n], summed over the fields."""
    total = np.zeros(len(data.join.ids))
    for name, a in data.fields_a.items():
        total += _severity(a, data.fields_b[name])
    return total


def _severity(a: FieldColumn, b: FieldColumn) -> Floats:
    """How much two readings of one field differ [n].

    A category read differently counts 1, and 1 more where it makes one side wrong; a price counts by |ln(a/b)| up to 2,
    and 2 where one side has none; a text by the difference of its two ratios.
    """
    if a.kind == "text":
        return np.abs(a.ratio - b.ratio)
    if a.kind == "category":
        return (a.predicted != b.predicted).astype(float) + (metrics.right(a) != metrics.right(b))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.minimum(np.abs(np.log(a.predicted / b.predicted)), 2.0)
    return np.where(np.isnan(a.predicted) != np.isnan(b.predicted), 2.0, np.nan_to_num(apart, nan=0.0))
