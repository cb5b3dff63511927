"""Charts as inline SVG and tables: nothing but numbers and escaped labels go in, so they are safe to mark as such."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ...compare.comparison import Comparison
from ...compare.paired_measures import PairedMeasure
from ...compare.score_run import NOT_PARSED
from ...compare.verdict import Gate
from .. import phrases

_POINTS = 400  # points drawn of each run
_CLASSES = 12  # classes a confusion matrix names
_SIDE = 320  # of the scatter's drawing
_LEFT, _BOTTOM = 60, 34  # room for a tick's label beside the axis' name
OTHER = "(other)"


def forest_scale(rows: Sequence[PairedMeasure]) -> float:
    """Half the width of the interval drawings, in shares: what holds all intervals, at least 5 points."""
    ends = [abs(end) for row in rows if row.unit == "share" for end in row.interval if end is not None]
    return min(1.0, max(0.05, 1.05 * float(np.quantile(ends, 0.9)))) if ends else 0.05


def interval_bar(row: PairedMeasure, scale: float, gate: Gate | None = None) -> Markup:
    """The interval of one difference on a line around zero. 200 x 16 units, stretched to fit.

    Of a measure that decides: the margin as a band, and over it the interval that is judged.
    """
    low, high = row.interval if gate is None else phrases.judged_interval(gate)[1]
    margin = gate.margin if gate else None
    if low is None or high is None or row.difference is None:
        return Markup("")
    # A log error has no share of the scale: one tenth is drawn as ten points.
    x = [100 + 100 * max(-1.0, min(1.0, value / scale)) for value in (low, row.difference, high)]
    band = ""
    if margin is not None:
        half = min(100.0, 100 * margin / scale)
        band = f'<rect class="margin" x="{100 - half:.1f}" y="0" width="{2 * half:.1f}" height="16"/>'
    css = "" if low <= 0 <= high else " better" if row.difference * row.better > 0 else " worse" if row.better else " sure"
    return Markup(
        '<svg class="bar" viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'{band}<line class="zero" x1="100" x2="100" y1="0" y2="16"/>'
        f'<line class="range{css}" x1="{x[0]:.1f}" x2="{max(x[2], x[0] + 0.5):.1f}" y1="8" y2="8"/>'
        f'<line class="point{css}" x1="{x[1]:.1f}" x2="{x[1]:.1f}" y1="3" y2="13"/></svg>'
    )


@dataclass(frozen=True)
class Scatter:
    """One run's predictions of one number field, drawn over the true values."""

    field: str
    side: str
    label: str
    drawing: Markup
    caption: str


def scatters(comparison: Comparison, *, seed: int) -> list[Scatter]:
    """A drawing for each number field and run; both runs of a field on the same axes."""
    found = []
    for name, column in comparison.data.fields_a.items():
        if column.kind != "number":
            continue
        pairs = [both_positive(item.true, item.predicted) for item in (column, comparison.data.fields_b[name])]
        values = np.concatenate([array for arrays in pairs for array in arrays])
        if not len(values):
            continue
        low, high = bounds(values)
        median = next(item for item in comparison.metrics if (item.field, item.metric) == (name, "median_ape"))
        sides = zip("AB", (comparison.a.label, comparison.b.label), pairs, (median.a, median.b))
        for side, label, (true, predicted), error in sides:
            shown = sampled(true, predicted, seed)
            caption = f"{len(shown[0]):,} of {len(true):,} parsed prices; median error "
            caption += "–" if error is None else f"{100 * error:.1f} %"
            found.append(Scatter(name, side, label, _draw(name, side, shown, low, high), caption))
    return found


def both_positive(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of prices [n] where both are above zero."""
    with np.errstate(invalid="ignore"):
        positive = (true > 0) & (predicted > 0)
    return true[positive], predicted[positive]


def sampled(true: np.ndarray, predicted: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points as are drawn."""
    if len(true) <= _POINTS:
        return true, predicted
    # The same rows of both runs, where all parsed: each draw starts from the same seed.
    rows = np.sort(np.random.default_rng(seed).choice(len(true), _POINTS, replace=False))
    return true[rows], predicted[rows]


def bounds(values: np.ndarray) -> tuple[float, float]:
    """The range of all but extreme values, with a little room."""
    low, high = np.quantile(values, [0.002, 0.998])
    return float(low) * 0.85, float(high) * 1.18


@dataclass(frozen=True)
class _Axes:
    """A square of logarithmic axes, both from `low` to `high`."""

    low: float
    high: float
    size: float = _SIDE - _LEFT - 8

    def x(self, value: float) -> float:
        """Where a true value lies."""
        return _LEFT + self._place(value)

    def y(self, value: float) -> float:
        """Where a predicted value lies."""
        return 8 + self.size - self._place(value)

    def _place(self, value: float) -> float:
        position = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.size * max(0.0, min(1.0, position))


def _draw(name: str, side: str, points: tuple[np.ndarray, np.ndarray], low: float, high: float) -> Markup:
    return draw_scatter(f"{side}: {name} predicted over true, logarithmic", side.lower(), points, low, high)


def draw_scatter(
    title: str, css: str, points: tuple[np.ndarray, np.ndarray], low: float, high: float,
    names: tuple[str, str] = ("true", "predicted"),
) -> Markup:  # fmt: skip
    """Points (x, y) on logarithmic axes from `low` to `high`, called `names`."""
    axes = _Axes(low, high)
    dots = "".join(f'<circle cx="{axes.x(t):.1f}" cy="{axes.y(p):.1f}" r="2.4"/>' for t, p in zip(*points))
    shapes = [*_band_lines(axes), *_grid_lines(axes), f'<g class="dots {css}">{dots}</g>', *_axis_names(axes, *names)]
    title = Markup("<title>{}</title>").format(title)
    height = 8 + axes.size + _BOTTOM
    return Markup(f'<svg class="scatter" viewBox="0 0 {_SIDE} {height}" role="img">{title}{Markup("".join(shapes))}</svg>')


def _band_lines(axes: _Axes) -> Iterator[str]:
    """The diagonal, and 10 % to either side of it."""
    for factor in (1 / 1.1, 1.1, 1.0):
        begin, end = max(axes.low, axes.low / factor), min(axes.high, axes.high / factor)
        css = "ideal" if factor == 1.0 else "ten"
        start = f'x1="{axes.x(begin):.1f}" y1="{axes.y(begin * factor):.1f}"'
        yield f'<line class="{css}" {start} x2="{axes.x(end):.1f}" y2="{axes.y(end * factor):.1f}"/>'


def _grid_lines(axes: _Axes) -> Iterator[str]:
    bottom = 8 + axes.size
    for tick in _ticks(axes.low, axes.high):
        x, y = axes.x(tick), axes.y(tick)
        label = tick_label(tick)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}"/>'
        yield f'<line class="grid" y1="{y:.1f}" y2="{y:.1f}" x1="{_LEFT}" x2="{_LEFT + axes.size}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>'
        yield f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def tick_label(tick: float) -> str:
    """A short label, so that it stays clear of the axis' name.

    >>> [tick_label(tick) for tick in (0.5, 200, 5000, 20_000, 1e6)]
    ['0.5', '200', '5,000', '20k', '1M']
    """
    if tick >= 1e6:
        return f"{tick / 1e6:,.0f}M"
    if tick >= 1e4:
        return f"{tick / 1e3:.0f}k"
    return f"{tick:,.0f}" if tick >= 1 else f"{tick:g}"


def _axis_names(axes: _Axes, across: str, up: str) -> Iterator[str]:
    yield f'<text x="{_LEFT + axes.size / 2}" y="{8 + axes.size + 29}" text-anchor="middle">{across}</text>'
    yield f'<text class="axis" transform="translate(10 {8 + axes.size / 2}) rotate(-90)" text-anchor="middle">{up}</text>'


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**decade for decade in decades for step in steps if low < step * 10.0**decade < high]


@dataclass(frozen=True)
class ConfusionGrid:
    """A confusion matrix to draw: counts [row][column], and the shade 0 to 9 of each cell within its row."""

    field: str
    side: str
    label: str
    classes: list[str]
    columns: list[str]
    counts: list[list[int]]
    shades: list[list[int]]


def confusion_grids(comparison: Comparison) -> list[ConfusionGrid]:
    """Both runs' matrices for each category field, their classes alike; rare classes together as one."""
    found = []
    for name in comparison.a.confusion:
        counts = [side.confusion.get(name, {}) for side in (comparison.a, comparison.b)]
        support = Counter({true: sum(predicted.values()) for true, predicted in counts[0].items()})
        for true, predicted in counts[1].items():
            support.setdefault(true, sum(predicted.values()))
        classes = [true for true, _ in support.most_common(_CLASSES)]
        for side, label, count in zip("AB", (comparison.a.label, comparison.b.label), counts):
            found.append(_grid(name, side, label, classes, count, more=len(support) > len(classes)))
    return found


def _grid(
    field: str, side: str, label: str, classes: list[str], counts: Mapping[str, Mapping[str, int]], *, more: bool
) -> ConfusionGrid:
    rows = [*classes, OTHER] if more else classes
    columns = [*classes, OTHER, NOT_PARSED]
    table = {row: Counter[str]() for row in rows}
    for true, predicted in counts.items():
        row = true if true in table else OTHER
        for answer, count in predicted.items():
            table[row][answer if answer in classes or answer == NOT_PARSED else OTHER] += count
    if not any(table[row][OTHER] for row in rows):
        columns.remove(OTHER)
    numbers = [[table[row][column] for column in columns] for row in rows]
    shades = [[math.ceil(9 * count / max(sum(line), 1)) for count in line] for line in numbers]
    return ConfusionGrid(field, side, label, rows, columns, numbers, shades)
