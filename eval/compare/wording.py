"""The verdict in one line: what was decided on, and what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .guards import RIGHT_BIAS, Guard
from .simple_predictors import SimpleCheck
from .verdict import Gate

_SHOWN = 3


def first_line(
    verdict: str, gates: Sequence[Gate], raised: Sequence[Guard], short: Sequence[SimpleCheck], scope: str = ""
) -> str:  # fmt: skip
    """ "EQUIVALENT on category and price (these two adapters only); title -97.0 points". scope: what it speaks of."""
    parts = [_decided(verdict, gates) + (f" ({scope})" if scope else "")]
    if short:
        parts = [f"{verdict}: {'; '.join(_shortfalls(short))}", *_states(gates)]
    parts += [guard_words(guard) for guard in raised[:_SHOWN]]
    if len(raised) > _SHOWN:
        parts.append(f"and {len(raised) - _SHOWN} more guards")
    return "; ".join(parts)


def _decided(verdict: str, gates: Sequence[Gate]) -> str:
    if verdict in ("WORSE", "BETTER"):
        said = "; ".join(_states(gates))
        return f"{verdict}: {said}"
    return f"{verdict} on {_listed([gate.field for gate in gates])}"


def _states(gates: Sequence[Gate]) -> list[str]:
    """What is shown of each gate that is beyond its margin, and which others are not decided."""
    found = [
        f"{gate.field} {100 * gate.difference:+.1f} points, {gate.state} by more than {100 * gate.margin:g} "
        f"({100 * gate.beyond_level:g} % interval {100 * gate.beyond[0]:+.1f} to {100 * gate.beyond[1]:+.1f})"
        for gate in gates
        if gate.state in ("worse", "better")
    ]
    undecided = [gate.field for gate in gates if gate.state == "open"]
    return [*found, *([f"{_listed(undecided)} not settled"] if found and undecided else [])]


def guard_words(guard: Guard) -> str:
    """ "title -97.0 points", "full_price bias +5.0 %", "category BAGS: category3_code -30.0 points"."""
    where = f"category {guard.category}: " if guard.category is not None else ""
    if guard.unit == "log":
        of = " of right prices" if guard.metric == RIGHT_BIAS else ""
        return f"{where}{guard.field} bias{of} {100 * math.expm1(guard.difference):+,.1f} %"
    what = {"ratio": "", "accuracy": "", "within_10": "", "mean_ape": " mean error", "parse_failures": " not parsed"}
    return f"{where}{guard.field}{what.get(guard.metric, f' {guard.label}')} {100 * guard.difference:+,.1f} points"


def _shortfalls(checks: Sequence[SimpleCheck]) -> list[str]:
    """ "A (0.0 %) and B (0.0 %) do not beat the most frequent category (10.0 %) on category3_code", one for each measure."""
    found = []
    for field, metric in dict.fromkeys((check.field, check.metric) for check in checks):
        these = [check for check in checks if (check.field, check.metric) == (field, metric)]
        runs = " and ".join(f"{check.side} ({100 * check.value:.1f} %)" for check in these)
        plural = len(these) > 1
        fails = ("do" if plural else "does") + " not beat"
        if any(check.value > check.floor for check in these):
            fails = f"{'are' if plural else 'is'} not shown to beat"
        found.append(f"{runs} {fails} {these[0].predictor} ({100 * these[0].floor:.1f} %) on {field}")
    return found


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return " and ".join([", ".join(unique[:-1]), unique[-1]] if len(unique) > 1 else unique)
