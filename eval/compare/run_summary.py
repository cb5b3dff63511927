"""What a comparison shows of each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..runs.columns import RunColumns
from ..runs.run import Run
from . import score_run


@dataclass(frozen=True)
class RunSummary:
    """What a comparison shows of one run."""

    label: str
    path: str
    manifest: dict[str, Any]
    rows: int
    only: list[str]  # ids the other run lacks
    duplicates: list[tuple[str, bool]]  # (id, whether both are equal)
    finished: bool
    seconds: float
    rows_per_second: float | None
    statuses: dict[str, dict[str, int]]  # field -> parse status -> rows
    confusion: dict[str, dict[str, dict[str, int]]]  # category field -> true -> predicted -> rows


def summarize_run(run: Run, columns: RunColumns, only: list[str]) -> RunSummary:
    """The summary of a run; `only` are the ids that the other run lacks."""
    speed = score_run.speed(columns, run.manifest)
    return RunSummary(
        label=run.label,
        path=str(run.path),
        manifest=run.manifest,
        rows=len(columns.ids),
        only=only,
        duplicates=columns.duplicates,
        finished=run.finished,
        seconds=speed["seconds"] or 0.0,
        rows_per_second=speed["rows_per_second"],
        statuses={name: score_run.parse_statuses(column) for name, column in columns.fields.items()},
        confusion={name: score_run.confusion(c) for name, c in columns.fields.items() if c.kind == "category"},
    )
