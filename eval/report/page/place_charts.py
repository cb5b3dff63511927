"""Drawings of where the runs err: A's prices against B's, reliability curves, the change of the confusion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ...compare.calibration import Calibration
from ...compare.category_forest import CategoryDifference
from ...compare.comparison import Comparison
from ...compare.confusion_change import ConfusionChange
from .charts import Scatter, both_positive, bounds, draw_scatter, sampled

_SIDE, _LEFT, _BOTTOM, _TOP = 320, 60, 34, 8
_CLASSES = 12
_SHADES = 4  # of a change in either direction
CELL_ROWS = 3  # rows that the page shows of a changed cell
CELLS = 12  # cells whose rows it shows


def pair_scatters(comparison: Comparison, *, seed: int) -> list[Scatter]:
    """For each number field, B's predictions over A's."""
    found = []
    for name, a in comparison.data.fields_a.items():
        if a.kind != "number":
            continue
        x, y = both_positive(a.predicted, comparison.data.fields_b[name].predicted)
        if not len(x):
            continue
        low, high = bounds(np.concatenate([x, y]))
        shown = sampled(x, y, seed)
        apart = float(np.median(np.abs(np.log(y / x))))
        caption = f"{len(shown[0]):,} of {len(x):,} rows that both parsed; median distance {100 * math.expm1(apart):.1f} %"
        title = f"{name} of B over that of A, logarithmic"
        found.append(Scatter(name, "A, B", "", draw_scatter(title, "pair", shown, low, high, ("A", "B")), caption))
    return found


def forest_bar(item: CategoryDifference, scale: float) -> Markup:
    """One category's interval on a line around zero. 200 x 16 units, stretched to fit."""
    low, high = item.interval
    x = [100 + 100 * max(-1.0, min(1.0, value / scale)) for value in (low, item.difference, high)]
    css = "" if not item.differs else " better" if item.difference > 0 else " worse"
    return Markup(
        '<svg class="bar" viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<line class="zero" x1="100" x2="100" y1="0" y2="16"/>'
        f'<line class="range{css}" x1="{x[0]:.1f}" x2="{max(x[2], x[0] + 0.5):.1f}" y1="8" y2="8"/>'
        f'<line class="point{css}" x1="{x[1]:.1f}" x2="{x[1]:.1f}" y1="3" y2="13"/></svg>'
    )


def category_scale(forest: Sequence[CategoryDifference]) -> float:
    """Half the width of the forest's drawings, in shares."""
    return max((abs(end) for item in forest for end in item.interval), default=0.0) or 1.0


def draw_reliability(items: Sequence[Calibration]) -> Markup:
    """Share exactly right over confidence, both runs of one field on the same axes, with intervals at 95 %."""
    size = _SIDE - _LEFT - 8

    def x(value: float) -> float:
        return _LEFT + size * value

    def y(value: float) -> float:
        return _TOP + size * (1 - value)

    shapes = [f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>', *_grid(x, y)]
    for item in items:
        css = item.side.lower()
        line = " ".join(f"{x(b.confidence):.1f},{y(b.right):.1f}" for b in item.bins)
        marks = "".join(
            f'<line x1="{x(b.confidence):.1f}" x2="{x(b.confidence):.1f}" y1="{y(b.interval[0]):.1f}" '
            f'y2="{y(b.interval[1]):.1f}"/><circle cx="{x(b.confidence):.1f}" cy="{y(b.right):.1f}" r="3"/>'
            for b in item.bins
        )
        shapes.append(f'<g class="curve {css}"><polyline points="{line}"/>{marks}</g>')
    shapes += [
        f'<text x="{_LEFT + size / 2}" y="{_TOP + size + 29}" text-anchor="middle">confidence</text>',
        f'<text class="axis" transform="translate(10 {_TOP + size / 2}) rotate(-90)" text-anchor="middle">exactly right</text>',
    ]
    title = Markup("<title>{}</title>").format(f"{items[0].field}: share exactly right over confidence")
    height = _TOP + size + _BOTTOM
    body = Markup("".join(shapes))
    return Markup(f'<svg class="scatter" viewBox="0 0 {_SIDE} {height}" role="img">{title}{body}</svg>')


def _grid(x: object, y: object) -> Iterator[str]:
    assert callable(x) and callable(y)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        yield f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{y(0)}" y2="{y(1)}"/>'
        yield f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(tick)}" y2="{y(tick)}"/>'
        anchor = "end" if tick == 1 else "middle"
        yield f'<text x="{x(tick)}" y="{y(0) + 14}" text-anchor="{anchor}">{100 * tick:g} %</text>'
        if tick:
            yield f'<text x="{x(0) - 5}" y="{y(tick) + 4}" text-anchor="end">{100 * tick:g} %</text>'


@dataclass(frozen=True)
class ChangeCell:
    """One cell of the change: rows, B - A; its shade -4 to 4; its name for the filter; where its rows begin, or ""."""

    change: int
    shade: int
    key: str
    link: str
    words: str


@dataclass(frozen=True)
class ChangeGrid:
    """The change of one field's confusion: classes down, answers across."""

    field: str
    classes: list[str]
    columns: list[str]
    cells: list[list[ChangeCell | None]]


def cell_key(field: str, true: str, predicted: str) -> str:
    """The name of a cell, for the filter of rows."""
    return f"{field}: {true} answered {predicted}"


def cell_rows(changes: Sequence[ConfusionChange]) -> dict[str, list[str]]:
    """Row id -> the cells that it entered or left, of all that moved."""
    found: dict[str, list[str]] = {}
    for change in changes:
        for cell in change.cells:
            for identity in (*cell.gained, *cell.lost):
                found.setdefault(identity, []).append(cell_key(change.field, cell.true, cell.predicted))
    return found


def rows_of_cells(changes: Sequence[ConfusionChange]) -> list[str]:
    """Ids of a few rows of each of the cells that change most, to be shown in any case."""
    cells = [cell for change in changes for cell in change.cells[:CELLS]]
    return list(dict.fromkeys(row for cell in cells for row in (*cell.gained, *cell.lost)[:CELL_ROWS]))


def change_grids(changes: Sequence[ConfusionChange], shown: Sequence[str]) -> list[ChangeGrid]:
    """The grids of the fields that change; `shown` are the ids of the page's rows, in their order."""
    return [_grid_of(change, shown) for change in changes if change.cells]


def _grid_of(change: ConfusionChange, shown: Sequence[str]) -> ChangeGrid:
    weight: Counter[str] = Counter()
    for cell in change.cells:
        weight[cell.true] += len(cell.gained) + len(cell.lost)
    classes = [name for name, _ in weight.most_common(_CLASSES)]
    answers: Counter[str] = Counter()
    for cell in change.cells:
        if cell.true in classes:
            answers[cell.predicted] += len(cell.gained) + len(cell.lost)
    columns = [name for name in classes if name in answers]
    columns += [name for name, _ in answers.most_common(_CLASSES + 4) if name not in columns]
    most = max(abs(cell.change) for cell in change.cells) or 1
    place = {identity: number for number, identity in enumerate(shown)}
    table: dict[tuple[str, str], ChangeCell] = {}
    for cell in change.cells:
        first = min((place[row] for row in (*cell.gained, *cell.lost) if row in place), default=None)
        key = cell_key(change.field, cell.true, cell.predicted)
        words = f"{cell.true} answered {cell.predicted}: {cell.a:,} rows in A, {cell.b:,} in B"
        shade = math.copysign(math.ceil(_SHADES * abs(cell.change) / most), cell.change) if cell.change else 0
        link = "" if first is None else f"#row-{first}"
        table[cell.true, cell.predicted] = ChangeCell(cell.change, int(shade), key, link, words)
    return ChangeGrid(change.field, classes, columns, [[table.get((row, name)) for name in columns] for row in classes])
