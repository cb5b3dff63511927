"""The rows on which two runs diverge, each with its causes, the worst first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..runs.columns import Bools, FieldColumn, Floats
from ..runs.prediction import Prediction
from . import divergence, metrics
from .noise import LogitNoise
from .paired_runs import PairedRuns


@dataclass(frozen=True)
class DivergedRow:
    """A row on which the runs diverge, with its causes. `position` counts tokens from 0; `margin` is in nats."""

    id: str
    cause: str
    detail: str
    parsed_differently: str  # the fields with other values: "full_price 120.0 | 12.0"
    position: int | None
    margin: float | None
    outcome: str
    category: str | None
    severity: float
    causes: tuple[str, ...]  # all that hold, `cause` first
    fields: dict[str, str]  # field -> which runs are right in it


def explain_rows(data: PairedRuns, noise: LogitNoise, misjoined: Bools, *, other_model: bool) -> list[DivergedRow]:
    """The rows on which the runs diverge, worst first: by severity (see `_severity`), then by the widest margin.

    Args:
        noise: of the two runs; says what is called a near-tie.
        misjoined: which joined rows hold the answer of another [n].
        other_model: whether weights or adapters are known to differ.
    """
    sampled = any((run.manifest.get("settings") or {}).get("temperature") for run in (data.run_a, data.run_b))
    severity = _severities(data)
    numbers = np.flatnonzero(_differing(data)).tolist()
    found = []
    for i, (a, b) in zip(numbers, data.rows(numbers)):
        cause = divergence.explain_divergence(
            a, b, near_tie=noise.near_tie, sampled=sampled, rounding=noise.rounding, other_model=other_model
        )
        if misjoined[i]:
            cause = divergence.as_misjoined()
        found.append(_diverged_row(data, i, a, b, float(severity[i]), cause))
    return sorted(found, key=lambda row: (-row.severity, -(row.margin or 0.0), row.id))


def count_causes(diverged: list[DivergedRow]) -> dict[str, int]:
    """Cause -> rows, in the order of `divergence.CAUSES`."""
    counts = Counter(row.cause for row in diverged)
    return {cause: counts[cause] for cause in divergence.CAUSES if counts[cause]}


def count_all_causes(diverged: list[DivergedRow]) -> dict[str, int]:
    """Cause -> rows of which it is one of the causes, in the order of `divergence.CAUSES`."""
    counts = Counter(cause for row in diverged for cause in row.causes)
    return {cause: counts[cause] for cause in divergence.CAUSES if counts[cause]}


def _differing(data: PairedRuns) -> Bools:
    """Which joined rows differ in answer, parsed fields or true values [n]."""
    differing = np.zeros(len(data.join.ids), dtype=bool)
    for name in ("text", "tokens", "predicted", "true"):
        left, right = data.digests(name)
        differing |= (left != right) & (left != 0) & (right != 0)
    return differing


def _diverged_row(
    data: PairedRuns, i: int, a: Prediction, b: Prediction, severity: float, found: divergence.Divergence
) -> DivergedRow:  # fmt: skip
    return DivergedRow(
        id=data.join.ids[i],
        cause=found.cause,
        detail=found.detail,
        parsed_differently=divergence.fields_parsed_differently(a, b),
        position=found.position,
        margin=found.margin,
        outcome=data.outcome(i),
        category=data.category[i],
        severity=severity,
        causes=found.causes,
        fields=data.field_outcomes(i),
    )


def _severities(data: PairedRuns) -> Floats:
    """How much the parsed fields of two answers differ, row by row [n], summed over the fields."""
    total = np.zeros(len(data.join.ids))
    for name, a in data.fields_a.items():
        total += _severity(a, data.fields_b[name])
    return total


def _severity(a: FieldColumn, b: FieldColumn) -> Floats:
    """How much two predicted values of one field differ [n].

    Another category counts 1, and 1 more where only one run is right. A price counts |ln(a/b)| up to 2, and 2 where only
    one run has a price. A text counts the difference of its two ratios.
    """
    if a.kind == "text":
        return np.abs(a.ratio - b.ratio)
    if a.kind == "category":
        severity: Floats = (a.predicted != b.predicted).astype(float) + (metrics.right(a) != metrics.right(b))
        return severity
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.minimum(np.abs(np.log(a.predicted / b.predicted)), 2.0)
    return np.where(np.isnan(a.predicted) != np.isnan(b.predicted), 2.0, np.nan_to_num(apart, nan=0.0))
