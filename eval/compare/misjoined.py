"""Rows joined to the wrong products: one run's answers agree with the other's a row or more further on.

Ids that slipped against their rows make every answer look wrong. The answers are compared at their own row and at the rows
up to three before and behind it, in the order of either run and of the ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..runs.columns import Bools, Ints
from .paired_runs import PairedRuns

_FARTHEST = 3
_LEAST_ROWS = 10
_LEAST_SHARE = 0.5  # of all rows that must agree further on
_TIMES = 2  # and so many times more than at their own row


@dataclass(frozen=True)
class Misjoined:
    """Where B's answers agree with A's: `lag` rows further on, at `agree` of `rows` rows; at their own row, `own`."""

    lag: int
    agree: int
    own: int
    rows: int
    order: str

    def sentence(self) -> str:
        """The first line's words."""
        far = "one row" if abs(self.lag) == 1 else f"{abs(self.lag)} rows"
        where = "further on" if self.lag > 0 else "before"
        return (
            f"misjoined: B's answers are those of A {far} {where} (agreement at lag {self.lag}: {self.agree:,} of "
            f"{self.rows:,} rows, at their own row {self.own:,}; {self.order}): its ids have slipped against its rows"
        )


def find_misjoined(data: PairedRuns) -> tuple[Misjoined | None, Bools]:
    """The lag at which answers agree, if any, and for which joined rows [n]."""
    n = len(data.join.ids)
    nowhere = np.zeros(n, dtype=bool)
    if n < _LEAST_ROWS:
        return None, nowhere
    for name in ("text", "predicted"):
        left, right = data.digests(name)
        if (left != 0).mean() > _LEAST_SHARE and (right != 0).mean() > _LEAST_SHARE:
            found, rows = best_lag(left, right, _orders(data))
            if found:
                return found, rows
    return None, nowhere


def _orders(data: PairedRuns) -> dict[str, Ints]:
    """The orders in which rows may have slipped: positions of the joined rows [n]."""
    by_id = np.array(sorted(range(len(data.join.ids)), key=data.join.ids.__getitem__), dtype=np.int64)
    return {"in A's order": np.arange(len(data.join.ids)), "in B's order": np.argsort(data.join.b), "by id": by_id}


def best_lag(left: Ints, right: Ints, orders: dict[str, Ints]) -> tuple[Misjoined | None, Bools]:
    """The lag at which digests agree best, where that is most rows and far more than at lag 0; and at which rows [n]."""
    own = int(((left == right) & (left != 0)).sum())
    best, rows = None, np.zeros(len(left), dtype=bool)
    for name, order in orders.items():
        for lag in (1, -1, 2, -2, 3, -3):
            agree = (np.roll(left[order], -lag) == right[order]) & (right[order] != 0)
            count = int(agree.sum())
            if count > max(_LEAST_SHARE * len(left), _TIMES * own) and (best is None or count > best.agree):
                best = Misjoined(lag, count, own, len(left), name)
                rows = np.zeros(len(left), dtype=bool)
                rows[order[agree]] = True
    return best, rows
