"""What changes in the confusion of a category field from A to B: cell by cell, with the rows that made the change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .paired_runs import PairedRuns
from .score_run import NOT_PARSED

_SHOWN_ROWS = 50


@dataclass(frozen=True)
class ChangedCell:
    """One cell of the confusion matrix that differs. `gained` and `lost`: ids of rows that are in it in B only, in A only."""

    true: str
    predicted: str
    a: int
    b: int
    gained: list[str]
    lost: list[str]

    @property
    def change(self) -> int:
        """Rows, B - A."""
        return self.b - self.a


@dataclass(frozen=True)
class ConfusionChange:
    """One category field: the cells whose rows are others in B, the largest change first."""

    field: str
    cells: list[ChangedCell]


def confusion_changes(data: PairedRuns) -> list[ConfusionChange]:
    """Every category field, over the rows that both runs have; at most 50 ids a cell in either direction."""
    found = []
    for name, a in data.fields_a.items():
        if a.kind != "category":
            continue
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        moved: defaultdict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for identity, true, x, y in zip(data.join.ids, a.true, a.predicted, data.fields_b[name].predicted):
            if true is None:
                continue
            cells = [(true, NOT_PARSED if value is None else value) for value in (x, y)]
            for side, cell in enumerate(cells):
                a_count, b_count = counts.get(cell, (0, 0))
                counts[cell] = (a_count + (side == 0), b_count + (side == 1))
            if x != y:
                moved[cells[1]][0].append(identity)
                moved[cells[0]][1].append(identity)
        changed = [
            ChangedCell(true, predicted, *counts[true, predicted], gained[:_SHOWN_ROWS], lost[:_SHOWN_ROWS])
            for (true, predicted), (gained, lost) in moved.items()
        ]
        changed.sort(key=lambda cell: (-abs(cell.change), -len(cell.gained) - len(cell.lost), cell.true, cell.predicted))
        found.append(ConfusionChange(name, changed))
    return found
