"""Answers and settings as Markdown, for loggers that show text."""

from __future__ import annotations

from collections.abc import Sequence

from ..text import printable
from .logger import Answers, Cell, RunInfo


def shown_cell(value: Cell) -> str:
    """A cell as text: numbers with four digits, yes and no."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else value


def markdown(table: Answers) -> str:
    """The table as Markdown, a row each; what a model wrote is shown as text."""
    header = ("row", *table.columns, "answer", "truth")
    rows = [(row.id, *map(shown_cell, row.cells.values()), row.answer, row.truth) for row in table.rows]
    return _table(header, rows)


def settings_table(run: RunInfo) -> str:
    """The run's settings as Markdown."""
    settings = [(name, str(value)) for name, value in run.config.items()]
    return _table(("setting", "value"), [("run", f"{run.project}/{run.name} ({run.id})"), *settings])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text that ends no cell and acts as no mark-up."""
    text = printable(" ".join(text.split()))
    for letter in "\\|`*_<>[]":
        text = text.replace(letter, f"&#{ord(letter)};")
    return text
