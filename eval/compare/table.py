"""More than two runs in one table, each against a reference: what quantising or another backend costs, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlx_phi3v.errors import UserError

from ..runs.run import Run
from .compare_runs import RESAMPLES, compare_runs
from .comparison import Comparison
from .measures import MetricRow


@dataclass(frozen=True)
class TableRow:
    """One run beside the reference; for the reference itself every difference is None and `verdict` empty."""

    label: str
    path: str
    rows: int
    verdict: str
    measures: list[MetricRow]  # `b` is this run, `a` the reference
    same_text: float | None  # share of the rows answered with the same text
    rows_per_second: float | None


@dataclass(frozen=True)
class Table:
    """Runs against one reference."""

    reference: str
    gated: list[tuple[str, str]]  # (field, metric) the verdicts rest on
    rows: list[TableRow]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def tabulate(
    runs: Sequence[Run],
    reference: Run,
    *,
    margins: Mapping[str, float | None] | None = None,
    allow: Collection[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = lambda stage: None,
) -> Table:
    """Compare every run with the reference, the reference itself first.

    Raises UserError where a run was not asked the same as the reference, or no run but the reference is given.
    """
    others = [run for run in runs if run.path.resolve() != reference.path.resolve()]
    if not others:
        raise UserError(f"nothing to compare with {reference.path}; give another run")
    rows: list[TableRow] = []
    gated: list[tuple[str, str]] = []
    for run in others:
        say(f"comparing {run.label}")
        comparison = compare_runs(reference, run, margins=margins, allow=allow, seed=seed, resamples=resamples, breakdown=False)
        if not rows:
            gated = [(gate.field, gate.metric) for gate in comparison.gates]
            rows.append(_reference_row(reference, comparison))
        rows.append(_compared_row(run, comparison))
    return Table(reference.label, gated, rows)


def _compared_row(run: Run, comparison: Comparison) -> TableRow:
    alike, known = comparison.agreement["text"]
    return TableRow(
        run.label,
        str(run.path),
        comparison.joined,
        comparison.verdict,
        comparison.metrics,
        alike / known if known else None,
        comparison.b.rows_per_second,
    )


def _reference_row(run: Run, comparison: Comparison) -> TableRow:
    own = [replace(item, b=item.a, difference=None, interval=(None, None), p_value=None) for item in comparison.metrics]
    return TableRow(run.label, str(run.path), comparison.a.rows, "", own, None, comparison.a.rows_per_second)


def measure_of(row: TableRow, field: str, metric: str) -> MetricRow | None:
    """One measure of a row, where the run has it."""
    return next((item for item in row.measures if (item.field, item.metric) == (field, metric)), None)
