"""Two runs with their columns aligned: row i of one is row i of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..runs.columns import STAGES, Bools, FieldColumn, Ints, RunColumns, first_category
from ..runs.prediction import Prediction
from ..runs.run import Run
from . import metrics
from .comparable import RowJoin
from .products import Products, find_products

OUTCOMES = ("both right", "only A", "only B", "both wrong")
_ANSWER = ("text", "tokens", "predicted")


@dataclass(frozen=True)
class PairedRuns:
    """Two runs with their columns aligned: row i of `fields_a` and of `fields_b` is `join.ids[i]`."""

    run_a: Run
    run_b: Run
    columns_a: RunColumns
    columns_b: RunColumns
    join: RowJoin
    fields_a: dict[str, FieldColumn]
    fields_b: dict[str, FieldColumn]
    right_a: Bools
    right_b: Bools
    category: list[str | None]
    products: Products

    def rows(self, numbers: Iterable[int]) -> Iterator[tuple[Prediction, Prediction]]:
        """Both runs' predictions for these joined rows, read from disk."""
        with self.run_a.reader() as read_a, self.run_b.reader() as read_b:
            for i in numbers:
                yield (
                    read_a(int(self.columns_a.offsets[self.join.a[i]])),
                    read_b(int(self.columns_b.offsets[self.join.b[i]])),
                )

    def digests(self, name: str) -> tuple[Ints, Ints]:
        """Both runs' digests of "text", "tokens", "predicted", "true" or an input stage [n]; 0 where not recorded."""
        return self.columns_a.digests[name][self.join.a], self.columns_b.digests[name][self.join.b]

    def outcome(self, i: int) -> str:
        """Which runs are right on joined row i."""
        return OUTCOMES[(0 if self.right_b[i] else 1) if self.right_a[i] else (2 if self.right_b[i] else 3)]

    def field_outcomes(self, i: int) -> dict[str, str]:
        """Field -> which runs are right in it on joined row i, of the fields that have a true value."""
        return {
            name: OUTCOMES[2 * (not self.field_right_a[name][i]) + (not self.field_right_b[name][i])]
            for name, column in self.fields_a.items()
            if column.has_truth[i]
        }

    @cached_property
    def field_right_a(self) -> dict[str, Bools]:
        """Field -> which joined rows A has right [n]."""
        return {name: metrics.right(column) for name, column in self.fields_a.items()}

    @cached_property
    def field_right_b(self) -> dict[str, Bools]:
        """Field -> which joined rows B has right [n]."""
        return {name: metrics.right(column) for name, column in self.fields_b.items()}

    def outcome_counts(self) -> dict[str, int]:
        """How many rows each of `OUTCOMES` has."""
        a, b = self.right_a, self.right_b
        return {name: int(rows.sum()) for name, rows in zip(OUTCOMES, (a & b, a & ~b, ~a & b, ~a & ~b))}

    def agreement(self) -> dict[str, tuple[int, int]]:
        """Of text, tokens and parsed fields: (equal rows, rows where both are recorded)."""
        return {name: (known - differing, known) for name, differing, known in map(self._compare, _ANSWER)}

    def differing_inputs(self) -> dict[str, tuple[int, int]]:
        """Of each input stage: (rows that differ, rows where both are recorded)."""
        return {stage: (differing, known) for stage, differing, known in map(self._compare, STAGES)}

    def _compare(self, name: str) -> tuple[str, int, int]:
        left, right = self.digests(name)
        known = (left != 0) & (right != 0)
        return name, int((known & (left != right)).sum()), int(known.sum())


def pair_runs(
    run_a: Run, run_b: Run, columns_a: RunColumns, columns_b: RunColumns, joined: RowJoin, cluster: str | None = None
) -> PairedRuns:
    """Align the columns of the fields that both runs have. cluster: see `products.find_products`."""
    names = [name for name in columns_a.fields if name in columns_b.fields]
    fields_a = {name: columns_a.fields[name].take(joined.a) for name in names}
    fields_b = {name: columns_b.fields[name].take(joined.b) for name in names}
    group = first_category(run_a.task)
    category = list(fields_a[group].true) if group in fields_a else [None] * len(joined.ids)
    sides = [(run_a, columns_a, joined.a), (run_b, columns_b, joined.b)]
    return PairedRuns(
        run_a, run_b, columns_a, columns_b, joined, fields_a, fields_b, _all_right(fields_a), _all_right(fields_b), category,
        find_products(joined.ids, sides, fields_a, cluster),
    )  # fmt: skip


def _all_right(fields: Mapping[str, FieldColumn]) -> Bools:
    """Rows on which every category and price is right; of a task that has neither, every text."""
    judged = [item for item in fields.values() if item.kind != "text"] or list(fields.values())
    right: Bools = np.all([metrics.right(item) | ~item.has_truth for item in judged], axis=0)
    return right
