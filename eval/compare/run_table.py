"""Several runs in one table, each against a reference: what quantisation or another backend costs.

A table asks many questions at once. Holm's correction (1979) over its runs keeps the chance that any of its EQUIVALENT is
false at 5 %, and that any of its WORSE and BETTER is: a verdict that does not pass it is INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlx_phi3v.errors import UserError

from ..runs.run import Run
from . import verdict
from .compare_runs import compare_runs
from .comparison import Comparison
from .paired_measures import PairedMeasure
from .settings import RESAMPLES
from .statistics.multiplicity import holm
from .wording import guard_words


@dataclass(frozen=True)
class RunTableRow:
    """One run next to the reference. Of the reference itself every difference is None and `verdict` is empty."""

    label: str
    path: str
    rows: int
    verdict: str
    measures: list[PairedMeasure]  # `b` is this run, `a` the reference
    same_text: float | None  # share of rows with the same text
    rows_per_second: float | None
    alone: str = ""  # the verdict of this comparison by itself, before the correction
    first_line: str = ""
    raised: tuple[str, ...] = ()  # the guards that are raised, in words
    remarks: tuple[str, ...] = ()  # what a reader must know before the verdict; A is the reference, B this run


@dataclass(frozen=True)
class RunTable:
    """Runs against one reference."""

    reference: str
    gated: list[tuple[str, str]]  # (field, metric) the verdicts rest on
    rows: list[RunTableRow]

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
    cluster: str | None = None,
    one_sided: bool = False,
    say: Callable[[str], None] = lambda stage: None,
) -> RunTable:
    """Compare every run with the reference, the reference itself first.

    one_sided: only a loss of a run counts. Raises UserError where a run must not be compared with the reference, where it is
    given twice, or only the reference is given.
    """
    places = [run.path.resolve() for run in runs]
    if twice := [run.path for i, run in enumerate(runs) if places[i] in places[:i]]:
        raise UserError(f"{twice[0]} is given twice; give each run once")
    others = [run for run in runs if run.path.resolve() != reference.path.resolve()]
    if not others:
        raise UserError(f"{reference.path} is the only run; give another to compare with it")
    rows: list[RunTableRow] = []
    gated: list[tuple[str, str]] = []
    compared: list[Comparison] = []
    for run in others:
        say(f"comparing {run.label}")
        comparison = compare_runs(
            reference, run, margins=margins, allow=allow, seed=seed, resamples=resamples, cluster=cluster, one_sided=one_sided,
            breakdown=False,
        )  # fmt: skip
        if not rows:
            gated = [(gate.field, gate.metric) for gate in comparison.gates]
            rows.append(_reference_row(reference, comparison))
        rows.append(_compared_row(run, comparison))
        compared.append(comparison)
    words = ["", *corrected(compared)]
    return RunTable(reference.label, gated, [replace(row, verdict=word) for row, word in zip(rows, words, strict=True)])


def corrected(comparisons: Sequence[Comparison]) -> list[str]:
    """Each comparison's verdict after Holm's correction over all of them."""
    # EQUIVALENT rests on the weakest of its gates, WORSE and BETTER on the strongest of k (Bonferroni).
    same = holm([max(gate.p_same for gate in item.gates) for item in comparisons])
    beyond = holm([min(1.0, len(item.gates) * min(gate.p_beyond for gate in item.gates)) for item in comparisons])
    found = []
    for item, p_same, p_beyond in zip(comparisons, same, beyond, strict=True):
        p = {"EQUIVALENT": p_same, "NO WORSE": p_same, "WORSE": p_beyond, "BETTER": p_beyond}.get(item.verdict, 0.0)
        found.append(item.verdict if p < verdict.ALPHA else "INCONCLUSIVE")
    return found


def _compared_row(run: Run, comparison: Comparison) -> RunTableRow:
    alike, known = comparison.agreement["text"]
    return RunTableRow(
        run.label,
        str(run.path),
        comparison.joined,
        comparison.verdict,
        comparison.metrics,
        alike / known if known else None,
        comparison.b.rows_per_second,
        comparison.verdict,
        comparison.first_line,
        tuple(guard_words(guard) for guard in comparison.raised),
        (*comparison.remarks, *comparison.notes),
    )


def _reference_row(run: Run, comparison: Comparison) -> RunTableRow:
    own = [replace(item, b=item.a, difference=None, interval=(None, None), p_value=None) for item in comparison.metrics]
    return RunTableRow(run.label, str(run.path), comparison.a.rows, "", own, None, comparison.a.rows_per_second)


def measure_of(row: RunTableRow, field: str, metric: str) -> PairedMeasure | None:
    """One measure of a row, where the run has it."""
    return next((item for item in row.measures if (item.field, item.metric) == (field, metric)), None)
