"""The deciding measures category by category, corrected for how many categories are looked at.

p-values of equality are adjusted by Holm (1979) over all categories and measures; the intervals are at 1 - 5 % / tests
(Bonferroni), so that all of them together hold at 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import statistics
from .metrics import get_metric
from .paired_measures import NO_CATEGORY, judged_difference
from .paired_runs import PairedRuns
from .products import within
from .statistics import Interval
from .statistics.multiplicity import holm
from .verdict import Gate

_ALPHA = 0.05


@dataclass(frozen=True)
class CategoryDifference:
    """One deciding measure in one category. Shares; B - A; `interval` at `level`, one for all categories together."""

    category: str
    field: str
    metric: str
    label: str
    rows: int
    difference: float
    interval: Interval
    level: float
    p_value: float
    p_adjusted: float  # after Holm, over all of the forest

    @property
    def differs(self) -> bool:
        """Whether equality is rejected at 5 % over all categories and measures."""
        return self.p_adjusted < _ALPHA


def category_forest(data: PairedRuns, gates: Sequence[Gate]) -> list[CategoryDifference]:
    """The forest, the largest category first; empty where there are not two categories."""
    names = np.array([NO_CATEGORY if value is None else value for value in data.category], dtype=object)
    categories, sizes = np.unique(names, return_counts=True) if len(names) else (names, np.zeros(0))
    if len(categories) < 2:
        return []
    order = [categories[i] for i in np.argsort(-sizes, kind="stable")]
    tests = []
    for category in order:
        rows = np.flatnonzero(names == category)
        for gate in gates:
            if gate.field in data.fields_a:
                a, b = data.fields_a[gate.field].take(rows), data.fields_b[gate.field].take(rows)
                difference = judged_difference(get_metric(a.kind, gate.metric), a, b, within(data.products.clusters, rows))
                if difference.n:
                    tests.append((category, gate, difference))
    if not tests:
        return []
    level = 1 - _ALPHA / len(tests)
    z = statistics.normal_quantile(level)
    p_values = [1.0 if (p := difference.p_value()) is None else p for _, _, difference in tests]
    return [
        CategoryDifference(
            category, gate.field, gate.metric, gate.label, int(difference.n), difference.estimate, difference.interval(z),
            level, p, adjusted,
        )
        for (category, gate, difference), p, adjusted in zip(tests, p_values, holm(p_values))
    ]  # fmt: skip
