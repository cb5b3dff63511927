"""The terminal report, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from mlx_phi3v.text import printable

from ..compare import run_table
from ..compare.comparison import Comparison
from ..compare.metrics import METRICS, Metric
from ..compare.paired_measures import PairedMeasure
from ..runs.run import Run
from . import phrases, place_phrases
from .terminal_places import error_places

WIDTH = 80
_COLOURS = {
    "EQUIVALENT": "green", "NO WORSE": "green", "BETTER": "cyan", "WORSE": "red", "INCONCLUSIVE": "yellow",
    "NOT MEANINGFUL": "magenta",
}  # fmt: skip
_CATEGORIES = 12


def print_comparison(console: Console, comparison: Comparison, *, rows: int = 10) -> None:
    """Print the verdict, the measures, why answers diverge, and the `rows` worst rows."""
    for block in (
        _verdict(comparison),
        _warnings(comparison),
        _measures("Measures", comparison.metrics),
        _both_parsed(comparison),
        _categories(comparison),
        error_places(comparison),
        _agreement(comparison),
        _causes(comparison),
        _worst(comparison, rows),
        _numbers(comparison),
    ):
        if block is not None:
            console.print(block, width=min(WIDTH, console.width))


def _text(value: object, style: str = "") -> Text:
    # Text, not str: rich reads [brackets] in a str as markup, and answers may hold any.
    return Text(printable(value, lines=True), style=style)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _verdict(comparison: Comparison) -> RenderableType:
    colour = _COLOURS[comparison.verdict]
    if comparison.raised and colour == "green":
        colour = "yellow"
    lines = [_text(comparison.first_line, f"bold {colour}"), _text(phrases.headline(comparison))]
    lines += [_text(comparison.claim.sentence)] if comparison.claim.sentence else []
    lines += [_text(f"! {remark}", "yellow") for remark in comparison.remarks]
    lines += [_text(f"! {line}", "yellow") for line in phrases.guard_lines(comparison)]
    lines += [_text(f"· {reason}") for reason in comparison.reasons]
    if needed := phrases.more_rows(comparison):
        lines.append(_text(needed))
    if comparison.products.clusters is not None:
        lines.append(_text(comparison.products.sentence()))
    lines.append(
        _text(
            f"A {comparison.a.label} ({comparison.a.rows:,} rows)   B {comparison.b.label} ({comparison.b.rows:,} rows)", "dim"
        )
    )
    return Panel(Group(*lines), border_style=colour)


def _warnings(comparison: Comparison) -> RenderableType | None:
    lines = [_text(f"! {line}", "yellow") for line in phrases.warnings(comparison)]
    return Group(*lines) if lines else None


def _grid(*columns: tuple[str, int, JustifyMethod]) -> RichTable:
    """A table of fixed widths: (heading, width, justify)."""
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for heading, width, justify in columns:
        grid.add_column(_text(heading), width=width, justify=justify, overflow="fold")
    return grid


def _measures(title: str, rows: Sequence[PairedMeasure]) -> RenderableType | None:
    if not rows:
        return None
    grid = _grid(
        (title, 20, "left"),
        ("A", 8, "right"),
        ("B", 8, "right"),
        ("B - A", 8, "right"),
        ("95 %", 18, "right"),
        ("rows", 7, "right"),
    )
    field = None
    for row in rows:
        if row.field != field:
            field = row.field
            grid.add_row(_text(field, "bold"))
        grid.add_row(
            _text(f"  {row.label}"),
            phrases.figure(row, row.a),
            phrases.figure(row, row.b),
            Text(phrases.gap(row, row.difference), style="bold" if row.significant else ""),
            phrases.interval(row),
            f"{row.rows:,}",
        )
    return grid


def _both_parsed(comparison: Comparison) -> RenderableType | None:
    """The fields in which some answer did not parse."""
    judged = {(row.field, row.metric): row.rows for row in comparison.metrics}
    fields = {row.field for row in comparison.both_parsed if row.rows != judged[row.field, row.metric]}
    return _measures("Rows both parsed", [row for row in comparison.both_parsed if row.field in fields])


def _categories(comparison: Comparison) -> RenderableType | None:
    if not comparison.by_category:
        return None
    gated = [(gate.field, gate.metric, gate.label) for gate in comparison.gates][:2]
    columns: list[tuple[str, int, JustifyMethod]] = [("\nCategory", 13, "left"), ("\nrows", 5, "right")]
    for _, _, label in gated:
        columns += [(f"{label}\nA", 9, "right"), ("\nB", 7, "right"), ("\nB - A", 7, "right")]
    grid = _grid(*columns)
    forest = comparison.error_places.categories
    sure = {(item.category, item.field, item.metric) for item in forest if item.differs}
    for name, rows in list(comparison.by_category.items())[:_CATEGORIES]:
        measured = {(row.field, row.metric): row for row in rows}
        cells: list[RenderableType] = [_text(name), f"{max((row.rows for row in rows), default=0):,}"]
        for field, metric, _ in gated:
            cells += _category_cells(measured[field, metric], (name, field, metric) in sure)
        grid.add_row(*cells)
    left = len(comparison.by_category) - _CATEGORIES
    more = f"and {left} more in --json and --html; " if left > 0 else ""
    return Group(grid, _text(f"{more}* differs. {place_phrases.forest_note(forest)}", "dim"))


def _category_cells(row: PairedMeasure, differs: bool) -> list[RenderableType]:
    difference = phrases.gap(row, row.difference) + ("*" if differs else " ")
    return [phrases.figure(row, row.a), phrases.figure(row, row.b), Text(difference, style="bold" if differs else "")]


def _agreement(comparison: Comparison) -> RenderableType:
    names = {"text": "same text", "tokens": "same tokens", "predicted": "same fields"}
    lines = [_heading("Agreement")]
    lines += [_text(f"{names[name]:<18}{phrases.share(*counts)}") for name, counts in comparison.agreement.items()]
    outcomes = ", ".join(f"{name} {count:,}" for name, count in comparison.outcomes.items())
    lines += [_text(f"{'right on':<18}{outcomes}"), _text(f"{'speed':<18}{phrases.speed(comparison)}")]
    return Group(*lines)


def _causes(comparison: Comparison) -> RenderableType:
    if not comparison.diverged:
        return Group(_heading("Why answers diverge"), _text("no row differs in answer, parsed fields or true values"))
    grid = _grid(("Why answers diverge", 24, "left"), ("rows", 8, "right"), ("also in", 8, "right"), ("", 34, "left"))
    most = max(comparison.cause_counts.values())
    for cause, count in comparison.all_cause_counts.items():
        first = comparison.cause_counts.get(cause, 0)
        also = f"{count - first:,}" if count > first else ""
        grid.add_row(_text(cause), f"{first:,}", also, Text("█" * round(30 * first / most), style="cyan"))
    return Group(grid, *(_text(line, "dim") for line in phrases.cause_notes(comparison)))


def _worst(comparison: Comparison, rows: int) -> RenderableType | None:
    shown = comparison.diverged[:rows]
    if not shown:
        return None
    grid = _grid((f"Worst {len(shown)}", 15, "left"), ("right", 17, "left"), ("cause", 44, "left"))
    for row in shown:
        cause = row.cause if row.margin is None else f"{row.cause} ({row.margin:.3g} nats)"
        grid.add_row(_text(row.id), _text(phrases.outcome(row)), _text(f"{cause}: {row.parsed_differently or row.detail}"))
    left = len(comparison.diverged) - len(shown)
    return Group(grid, _text(f"and {left:,} more in --json and --html", "dim")) if left else grid


def _numbers(comparison: Comparison) -> RenderableType:
    _, subjects = phrases.differences(comparison)
    lines = [_heading("Inputs and numbers"), *(_text(line) for line in phrases.inputs(comparison))]
    lines += [_text(line) for line in phrases.noise(comparison)]
    lines += [_text(phrases.trace_line(item)) for item in comparison.trace or []]
    if subjects:
        lines += [_heading("The runs differ in (A | B)"), *(_text(f"{item}") for item in subjects)]
    lines += _trainings(comparison)
    lines.append(_text(f"\n{phrases.method(comparison)}", "dim"))
    return Group(*lines)


def _trainings(comparison: Comparison) -> list[Text]:
    if comparison.trainings is None:
        return []
    return [_heading("The trainings (A | B)"), *(_text(line) for line in phrases.training_lines(comparison.trainings))]


def print_table(console: Console, runs: Sequence[Run], reference: Run) -> None:
    """Compare every run with `reference` and print them in one table."""
    print_rows(console, run_table.tabulate(runs, reference))


def print_rows(console: Console, found: run_table.RunTable) -> None:
    """Print a table of runs: gated measures with their difference to the reference below, and each verdict."""
    gated = found.gated[:2]
    first = found.rows[0]
    headings = [measure.label if (measure := run_table.measure_of(first, *name)) else name[1] for name in gated]
    grid = _grid(
        ("Run", 20, "left"),
        *((heading, 15, "right") for heading in headings),
        ("same text", 9, "right"),
        ("rows/s", 6, "right"),
    )
    alike = len({row.label for row in found.rows}) < len(found.rows)
    names = [f"{row.label} ({Path(row.path).name})" if alike else row.label for row in found.rows]
    for name, row in zip(names, found.rows):
        measures = [run_table.measure_of(row, *gate) for gate in gated]
        grid.add_row(
            _run_cell(name, row),
            *("–" if item is None else _measure_cell(item) for item in measures),
            "" if row.same_text is None else f"{100 * row.same_text:.1f} %",
            "–" if row.rows_per_second is None else f"{row.rows_per_second:.3g}",
        )
    console.print(grid, width=min(WIDTH, console.width))
    for name, row in zip(names, found.rows):
        for remark in row.remarks:
            console.print(_text(f"! {name}: {remark}", "yellow"), width=min(WIDTH, console.width))
    console.print(_text("below each figure: difference to the reference in points, and its 95 % interval", "dim"))
    if len(found.rows) > 2:
        console.print(
            _text(f"verdicts hold over all {len(found.rows) - 1} comparisons together at 5 % (Holm)", "dim"), soft_wrap=True
        )


def _run_cell(label: str, row: run_table.RunTableRow) -> Text:
    name = _text(label, "bold")
    verdict = row.verdict or "reference"
    if row.raised:
        more = f" and {len(row.raised) - 1} more" if len(row.raised) > 1 else ""
        verdict += f"; {printable(row.raised[0])}{more}"
    return name.append("\n").append(verdict, style=_COLOURS.get(row.verdict, "dim")).append(f"\n{row.rows:,} rows", style="dim")


def _measure_cell(item: PairedMeasure) -> Text:
    cell = Text(phrases.figure(item, item.b))
    if item.difference is None:
        return cell
    low, high = (phrases.gap(item, end) for end in item.interval)
    return cell.append(f"\n{phrases.gap(item, item.difference)}", style="bold").append(f"\n{low} {high}", style="dim")


def print_scores(console: Console, scores: Mapping[str, Any]) -> None:
    """Print one run's measures (`score_run.score_run`) with their intervals."""
    grid = _grid((printable(scores["label"])[:26], 26, "left"), ("", 10, "right"), ("95 %", 20, "right"), ("rows", 8, "right"))
    for name, item in scores["fields"].items():
        grid.add_row(_text(name, "bold"))
        for metric in METRICS[item["kind"]]:
            grid.add_row(f"  {metric.label}", *_score_cells(metric, item["metrics"][metric.name]))
        failed = {status: count for status, count in item["statuses"].items() if count and status != "ok"}
        if failed:
            grid.add_row(_text("  " + ", ".join(f"{status} {count:,}" for status, count in failed.items()), style="dim"))
    console.print(grid, width=min(WIDTH, console.width))
    if scores.get("read_differently"):
        console.print(_text(f"{scores['read_differently']:,} rows parse to other values than when the run was made", "yellow"))


def _score_cells(metric: Metric, score: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = (phrases.value(metric.unit, end) for end in score["interval"])
    return phrases.value(metric.unit, score["value"]), f"{low} to {high}", f"{score['rows']:,}"
