"""EQUIVALENT, DIFFERENT or INCONCLUSIVE, measure by measure and overall.

A gated measure (category accuracy, price within 10 %, or what the user adds) is
- `same`       where the 90 % interval of B - A is inside the margin: two one-sided tests at 5 % each;
- `different`  where it is not `same` and equality is rejected at 5 % over all gates together (Bonferroni):
               exact McNemar for a share, else the bootstrap interval leaves out zero;
- `open`       otherwise.
Overall: DIFFERENT where any gate is different, EQUIVALENT where all are same, else INCONCLUSIVE. Rows that one run
lacks count against `same` in the worst way they could fall. So equal systems are called DIFFERENT at most one time
in twenty, systems at the margin EQUIVALENT at most one time in twenty, and a difference that is real but inside the
margin is EQUIVALENT.

Against a baseline only a loss counts: NO WORSE where every gate's 95 % one-sided bound is above minus the margin,
WORSE where any gate is different and lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task

from .metrics import METRICS, Metric
from .statistics import Interval, PairedDifference, PairedProportion, normal_quantile, tango

ALPHA = 0.05
POWER = 0.80
MARGINS: dict[str, float] = {"accuracy": 0.02, "within_10": 0.02}
_TEXT_MARGINS = {"ratio": 0.02}  # where a task has neither category nor price

State = Literal["same", "different", "open"]
Verdict = Literal["EQUIVALENT", "DIFFERENT", "INCONCLUSIVE", "NO WORSE", "WORSE"]
EXIT_STATUS: dict[str, int] = {"EQUIVALENT": 0, "NO WORSE": 0, "DIFFERENT": 1, "WORSE": 1, "INCONCLUSIVE": 3}


@dataclass(frozen=True)
class Gate:
    """One measure that decides the verdict. Differences are B minus A, in shares (0.02 is two points)."""

    field: str
    metric: str
    label: str
    margin: float
    difference: float
    interval: Interval  # 90 %: what is held inside the margin
    p_value: float | None  # exact McNemar; None for a bootstrapped measure
    state: State
    better: int
    rows: int
    rows_to_same: int | None  # of an open gate: rows in all at which `same` is found with 80 % power, these rates being true
    rows_to_different: int | None


@dataclass(frozen=True)
class Decision:
    """The verdict, its gates, and how many more rows would decide an open one."""

    verdict: Verdict
    gates: list[Gate]
    reasons: list[str]
    more_rows: int | None


def gated_metrics(task: Task, margins: Mapping[str, float | None] | None) -> list[tuple[str, Metric, float]]:
    """(field, metric, margin) of every gate: `margins` over the defaults; None as a margin takes a default gate out.

    Raises UserError for an unknown measure, a margin outside (0, 1), or a task on which nothing is gated.
    """
    known = {metric.name for group in METRICS.values() for metric in group if metric.form == "proportion" or metric.bounded}
    for name, margin in (margins or {}).items():
        if name not in known:
            raise UserError(f"no margin can be set on {name!r}; choose one of {', '.join(sorted(known))}")
        if margin is not None and not 0 < margin < 1:
            raise UserError(f"the margin of {name} is {margin:g}; give points above 0 and below 100")
    kinds = {item.kind for item in task.fields}
    defaults = MARGINS if kinds & {"category", "number"} else _TEXT_MARGINS
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
    field: str,
    metric: Metric,
    margin: float,
    difference: PairedDifference,
    *,
    gates: int,
    only_a: int = 0,
    only_b: int = 0,
    one_sided: bool = False,
    project: bool = True,
) -> Gate:
    """Judge one measure.

    Args:
        gates: how many measures the verdict rests on; each is tested for a difference at ALPHA / gates.
        only_a, only_b: rows that only one run has; they widen the interval to where they could move it.
        one_sided: only a loss of B counts (a baseline).
        project: also find how many rows would decide an open gate.
    """
    better = metric.better if one_sided else 0
    z = normal_quantile(1 - 2 * ALPHA)
    interval = _worst_case(difference, z, only_a, only_b) if difference.n else (-1.0, 1.0)
    state = _state(difference, interval, margin, ALPHA / gates, better)
    needed: tuple[int | None, int | None] = (None, None)
    if state == "open" and project:
        needed = rows_needed(difference, margin, gates=gates, better=better)
    return Gate(
        field, metric.name, metric.label, margin, difference.estimate, interval,
        difference.p_value() if difference.n else None, state, metric.better, int(difference.n), *needed,
    )  # fmt: skip


def _state(difference: PairedDifference, interval: Interval, margin: float, alpha: float, better: int) -> State:
    """`same`, `different` at level alpha, or `open`; with `better`, a gain of B is never `different`."""
    if inside(interval, margin, better):
        return "same"
    gain = difference.estimate * better > 0
    return "different" if difference.n and not gain and difference.differs(alpha) else "open"


def inside(interval: Interval, margin: float, better: int = 0) -> bool:
    """Whether the interval is inside the margin; with `better`, whether its worse end does."""
    low, high = interval
    if better > 0:
        return low > -margin
    if better < 0:
        return high < margin
    return -margin < low and high < margin


def _worst_case(difference: PairedDifference, z: float, only_a: int, only_b: int) -> Interval:
    low, high = difference.interval(z)
    if not only_a + only_b:
        return low, high
    if isinstance(difference, PairedProportion):
        n = difference.n + only_a + only_b
        low = tango(difference.only_a + only_a + only_b, difference.only_b, n, z)[0]
        high = tango(difference.only_a, difference.only_b + only_a + only_b, n, z)[1]
        return low, high
    shift = (only_a + only_b) / (difference.n + only_a + only_b)
    return low - shift, high + shift


def rows_needed(
    difference: PairedDifference, margin: float, *, gates: int = 1, better: int = 0
) -> tuple[int | None, int | None]:
    """Rows in all at which the measure is found `same`, and `different`, with 80 % power, these rates being true.

    Normal approximations; for exact McNemar with Fleiss's continuity correction (2 / |difference| more rows).
    None where no number of rows does: a difference beyond the margin is never `same`, none at all never `different`.
    """
    if not difference.n or math.isnan(difference.estimate):
        return None, None
    estimate = difference.estimate
    z_same = normal_quantile(1 - 2 * ALPHA)
    z_different = normal_quantile(1 - ALPHA / gates)

    def error(n: int) -> float:
        low, high = difference.at(n).interval(z_same)
        return (high - low) / (2 * z_same)

    def finds_same(n: int) -> bool:
        ends = [math.inf if better < 0 else margin + estimate, math.inf if better > 0 else margin - estimate]
        return sum(float(stats.norm.cdf(end / max(error(n), 1e-12) - z_same)) for end in ends) - 1 >= POWER

    def finds_different(n: int) -> bool:
        fewer = n - 2 / abs(estimate) if isinstance(difference, PairedProportion) else n
        return fewer > 0 and abs(estimate) / error(int(max(fewer, 1))) - z_different >= float(stats.norm.ppf(POWER))

    start = int(difference.n)
    return _first_n(finds_same, start), _first_n(finds_different, start) if abs(estimate) > 1e-12 else None


def _first_n(decided: Callable[[int], bool], n: int) -> int | None:
    """The fewest rows, from n on, at which `decided` holds; None beyond a hundred million."""
    low, high = n, max(n, 1)
    while not decided(high):
        low, high = high, high * 2
        if high > 100_000_000:
            return None
    while high - low > max(1, low // 500):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def decide(gates: list[Gate], *, one_sided: bool = False) -> Decision:
    """The overall verdict and its reasons, one sentence each."""
    if any(gate.state == "different" for gate in gates):
        verdict: Verdict = "WORSE" if one_sided else "DIFFERENT"
    elif all(gate.state == "same" for gate in gates):
        verdict = "NO WORSE" if one_sided else "EQUIVALENT"
    else:
        verdict = "INCONCLUSIVE"
    more = _more_rows(gates) if verdict == "INCONCLUSIVE" else None
    return Decision(verdict, gates, [_reason(gate, one_sided) for gate in gates], more)


def _more_rows(gates: list[Gate]) -> int | None:
    """Rows beyond those at hand: all gates same, or any different, whichever comes first."""
    waiting = [gate for gate in gates if gate.state == "open"]
    totals = [gate.rows_to_different - gate.rows for gate in waiting if gate.rows_to_different is not None]
    same = [gate.rows_to_same - gate.rows for gate in waiting if gate.rows_to_same is not None]
    if len(same) == len(waiting):
        totals.append(max(same))
    return max(1, min(totals)) if totals else None


def _reason(gate: Gate, one_sided: bool) -> str:
    low, high = (100 * end for end in gate.interval)
    name = f"{gate.field} {gate.label}"
    if gate.rows == 0:
        return f"{name}: no row has a true value"
    spread = f"{100 * gate.difference:+.2f} points, 90 % interval {low:+.2f} to {high:+.2f}"
    margin = f"{100 * gate.margin:g} points"
    test = f", exact McNemar p = {gate.p_value:.2g}" if gate.p_value is not None else ""
    if gate.state == "same":
        bound = f"not more than {margin} worse" if one_sided else f"inside the margin of {margin}"
        return f"{name}: {spread}: {bound}"
    if gate.state == "different":
        beyond = min(abs(low), abs(high)) > 100 * gate.margin and low * high > 0
        where = f"beyond the margin of {margin}" if beyond else f"not shown to be inside {margin}"
        return f"{name}: {spread}: a real difference{test}, {where}"
    return f"{name}: {spread}: neither inside the margin of {margin} nor a significant difference{test}"
