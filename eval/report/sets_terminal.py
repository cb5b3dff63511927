"""The terminal report on two ways to train, in 80 columns."""

from __future__ import annotations

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.panel import Panel

from ..compare.compare_sets import SetComparison
from . import phrases, sets_phrases
from .terminal import _COLOURS, WIDTH, _grid, _heading, _measures, _text


def print_sets(console: Console, found: SetComparison) -> None:
    """Print the claim, the verdict, what varies from seed to seed, and the measures."""
    for block in (_verdict(found), _seeds(found), _measures("Measures", found.metrics), _rest(found)):
        if block is not None:
            console.print(block, width=min(WIDTH, console.width))


def _verdict(found: SetComparison) -> RenderableType:
    colour = _COLOURS[found.verdict]
    if found.raised and colour == "green":
        colour = "yellow"
    lines = [_text(found.first_line, f"bold {colour}"), _text(sets_phrases.headline(found)), _text(found.claim.sentence)]
    lines += [_text(f"! {remark}", "yellow") for remark in found.remarks]
    lines += [_text(f"! {line}", "yellow") for line in phrases.guard_lines(found)]
    lines += [_text(f"· {reason}") for reason in found.reasons]
    if settle := sets_phrases.settle_line(found):
        lines.append(_text(settle))
    lines.append(_text(found.products.sentence()))
    return Panel(Group(*lines), border_style=colour)


def _seeds(found: SetComparison) -> RenderableType:
    """Each training's value of the deciding measures, and how they vary."""
    shown = found.spreads[:2]
    columns: list[tuple[str, int, JustifyMethod]] = [("\nSeed", 9, "left")]
    for item in shown:
        columns += [(f"{item.label}\nA %", 13, "right"), ("\nB %", 8, "right"), ("\nB - A", 8, "right")]
    grid = _grid(*columns)
    for line in sets_phrases.seed_rows(found):
        grid.add_row(*(_text(cell) for cell in line[: 1 + 3 * len(shown)]))
    return Group(grid, *(_text(f"· {sets_phrases.spread_line(item)}") for item in found.spreads))


def _rest(found: SetComparison) -> RenderableType:
    lines = [_heading("The sides differ in (A | B)")]
    lines += [_text(line) for line in sets_phrases.difference_lines(found)] or [_text("nothing but their adapters")]
    for side in found.sets.sides:
        lines.append(_text(f"{side.name} {side.label}: {', '.join(item.label for item in side.trainings)}", "dim"))
    lines.append(_text(f"\n{sets_phrases.method(found)}", "dim"))
    return Group(*lines)
