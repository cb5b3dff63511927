"""The verdict on two runs, measure by measure and overall.

A gated measure (category accuracy, price within 10 %, or what the user adds) is
- `same`           where the 90 % interval of B - A is inside the margin: two one-sided tests at 5 % each;
- `worse`, `better` where B is shown to be worse, or better, than A by more than the margin: a one-sided test at 5 % / gates,
                   corrected for skewness. The interval at 1 - 10 % / gates (95 % for two gates) then excludes the margin;
- `open`           otherwise. Where equality is rejected at 5 % over all gates together (Bonferroni; exact McNemar for a
                   share) it says that the measure differs and that its size is not settled.
Overall: WORSE where any gate is worse, BETTER where any is better, EQUIVALENT where all are same, else INCONCLUSIVE.
Rows that are absent (that one run lacks, or both) count against `same` in the worst way they could turn out. So runs
whose true difference is the margin are called EQUIVALENT at most one time in twenty, and WORSE or BETTER at most one
time in twenty. A difference that is real but inside the margin is EQUIVALENT.

Against a baseline, or with --one-sided, only a loss counts: NO WORSE where every gate's 95 % one-sided bound is above
minus the margin, WORSE where any gate is worse.

NOT MEANINGFUL stands before all of these where a run does not beat a simple predictor (see `simple_predictors`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import scipy

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task

from .metrics import METRICS, Metric
from .power import ALPHA, rows_needed, rows_to_decide
from .statistics import Interval, JudgedDifference, normal_quantile

MARGINS: dict[str, float] = {"accuracy": 0.02, "within_10": 0.02, "score": 0.02}
_TEXT_MARGINS = {"ratio": 0.02}  # where a task has neither category nor price

State = Literal["same", "worse", "better", "open"]
Verdict = Literal["EQUIVALENT", "BETTER", "WORSE", "INCONCLUSIVE", "NO WORSE", "NOT MEANINGFUL"]
EXIT_STATUS: dict[str, int] = {
    "EQUIVALENT": 0, "NO WORSE": 0, "WORSE": 1, "BETTER": 1, "INCONCLUSIVE": 3, "NOT MEANINGFUL": 4
}  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """One measure that decides the verdict. Differences are B minus A, in shares (0.02 is two points)."""

    field: str
    metric: str
    label: str
    margin: float
    difference: float
    interval: Interval  # 90 %: what is held inside the margin
    p_value: float | None  # of equality: exact McNemar for a share
    state: State
    better: int
    rows: int
    rows_to_same: int | None  # of an open gate: rows in all at which `same` is found with 80 % power, these rates being true
    rows_to_different: int | None  # and at which any difference is
    rows_to_beyond: int | None  # and at which one beyond the margin is
    differs: bool  # whether equality is rejected at 5 % over all gates together
    beyond: Interval  # the interval that is held outside the margin
    beyond_level: float  # its level: 0.95 for two gates
    p_same: float  # one-sided: of a difference of the margin or more, absent rows at their worst
    p_beyond: float  # one-sided: of a difference of the margin or less
    absent: int  # rows that one run lacks or both, counted against `same`
    evidence: JudgedDifference = dataclasses.field(repr=False, compare=False, metadata={"json": False})


@dataclass(frozen=True)
class Decision:
    """The verdict, its gates, and how many more rows would decide an open one."""

    verdict: Verdict
    gates: list[Gate]
    reasons: list[str]
    more_rows: int | None


def gated_metrics(task: Task, margins: Mapping[str, float | None] | None) -> list[tuple[str, Metric, float]]:
    """(field, metric, margin) of every gate: `margins` over the defaults; None as a margin takes a default gate out.

    Raises UserError for a measure that has no test at a margin, a margin outside (0, 1), or a task on which nothing is
    gated. Macro-F1, medians and errors have bootstrap intervals only, which do not hold their level on few rows.
    """
    known = {metric.name for group in METRICS.values() for metric in group if metric.judged}
    for name, margin in (margins or {}).items():
        if name not in known:
            raise UserError(f"no margin can be set on {name!r}; choose one of {', '.join(sorted(known))}")
        if margin is not None and not 0 < margin < 1:
            raise UserError(f"the margin of {name} is {margin:g}; give points above 0 and below 100")
    kinds = {item.kind for item in task.fields}
    defaults = MARGINS if kinds & {"category", "number", "score"} else _TEXT_MARGINS
    chosen = {name: margin for name, margin in {**defaults, **(margins or {})}.items() if margin is not None}
    gates = [
        (item.name, metric, chosen[metric.name])
        for item in task.fields
        for metric in METRICS[item.kind]
        if metric.name in chosen
    ]
    if not gates:
        raise UserError("none of the task's fields has a measure with a margin; set one, such as --margin-title")
    return gates


def judge(
    field: str, metric: Metric, margin: float, difference: JudgedDifference, *, gates: int, absent: int = 0,
    one_sided: bool = False, project: bool = True,
) -> Gate:  # fmt: skip
    """Judge one measure.

    Args:
        gates: how many measures the verdict rests on; each is tested beyond its margin at ALPHA / gates.
        absent: rows that one run lacks or both; they widen the interval to where they could move it.
        one_sided: only a loss of B counts (a baseline).
        project: also find how many rows would decide an open gate.
    """
    better, judged = metric.better if one_sided else 0, bool(difference.n)
    lowest, highest = difference.with_absent(absent) if absent and judged else (difference, difference)
    z, z_beyond = normal_quantile(1 - 2 * ALPHA), normal_quantile(1 - 2 * ALPHA / gates)
    interval = (lowest.interval(z)[0], highest.interval(z)[1]) if judged else (-1.0, 1.0)
    beyond = difference.interval(z_beyond) if judged else (-1.0, 1.0)
    below, above = difference.beyond(margin) if judged else (1.0, 1.0)
    state = _state(inside(interval, margin, better), below, above, ALPHA / gates, metric.better)
    needed: tuple[int | None, int | None, int | None] = (None, None, None)
    if state == "open" and project:
        needed = rows_needed(difference, margin, gates=gates, better=better)
    return Gate(
        field, metric.name, metric.label, margin, difference.estimate, interval,
        difference.p_value() if judged else None, state, metric.better, int(difference.n), *needed,
        differs=judged and difference.differs(ALPHA / gates), beyond=beyond, beyond_level=1 - 2 * ALPHA / gates,
        p_same=_p_same(lowest, highest, margin, better) if judged else 1.0,
        p_beyond=min(below, above), absent=absent, evidence=difference,
    )  # fmt: skip


def _state(same: bool, below: float, above: float, alpha: float, better: int) -> State:
    """The state of a gate from its tests: `below`, `above` are the p-values of a difference that is not beyond the margin."""
    if same:
        return "same"
    if min(below, above) >= alpha:
        return "open"
    return "worse" if (below < above) == (better >= 0) else "better"


def inside(interval: Interval, margin: float, better: int = 0) -> bool:
    """Whether the interval is inside the margin; with `better`, whether its worse end does."""
    low, high = interval
    if better > 0:
        return low > -margin
    if better < 0:
        return high < margin
    return -margin < low and high < margin


def _p_same(lowest: JudgedDifference, highest: JudgedDifference, margin: float, better: int) -> float:
    ends = [] if better < 0 else [float(scipy.stats.norm.sf(lowest.score(-margin)))]
    ends += [] if better > 0 else [float(scipy.stats.norm.sf(-highest.score(margin)))]
    return max(ends)


def decide(gates: list[Gate], *, one_sided: bool = False, project: bool = True) -> Decision:
    """The overall verdict and its reasons, one sentence each; `project`: also how many rows would decide."""
    states = {gate.state for gate in gates}
    if "worse" in states:
        verdict: Verdict = "WORSE"
    elif "better" in states and not one_sided:
        verdict = "BETTER"
    elif states == {"same"}:
        verdict = "NO WORSE" if one_sided else "EQUIVALENT"
    else:
        verdict = "INCONCLUSIVE"
    more = _more_rows(gates, one_sided) if verdict == "INCONCLUSIVE" and project else None
    return Decision(verdict, gates, [_reason(gate, one_sided) for gate in gates], more)


def _more_rows(gates: list[Gate], one_sided: bool) -> int | None:
    """Rows beyond those at hand: all gates same, or any beyond its margin, whichever comes first."""
    totals = rows_to_decide(
        [gate.evidence for gate in gates],
        [gate.margin for gate in gates],
        [gate.better if one_sided else 0 for gate in gates],
    )
    wanted = [total for total in totals if total is not None]
    return max(1, min(wanted) - max(gate.rows for gate in gates)) if wanted else None


def _reason(gate: Gate, one_sided: bool) -> str:
    name = f"{gate.field} {gate.label}"
    if gate.rows == 0:
        return f"{name}: no row has a true value"
    interval = gate.beyond if gate.state in ("worse", "better") else gate.interval
    level = gate.beyond_level if gate.state in ("worse", "better") else 1 - 2 * ALPHA
    low, high = (100 * end for end in interval)
    spread = f"{100 * gate.difference:+.2f} points, {100 * level:.3g} % interval {low:+.2f} to {high:+.2f}"
    return f"{name}: {spread}: {_found(gate, one_sided)}"


def _found(gate: Gate, one_sided: bool) -> str:
    margin = f"{100 * gate.margin:g} points"
    test = f" (p = {gate.p_value:.2g})" if gate.p_value is not None else ""
    if gate.state == "same":
        return f"not more than {margin} worse" if one_sided else f"inside the margin of {margin}"
    if gate.state != "open":
        return f"{gate.state} by more than the margin of {margin}"
    absent = f"; the {gate.absent:,} rows that are absent count as badly as they could" if gate.absent else ""
    if gate.differs:
        return f"differs{test}, size not settled: neither inside nor beyond the margin of {margin}{absent}"
    return f"neither inside nor beyond the margin of {margin}, no difference shown{test}{absent}"
