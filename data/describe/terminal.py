"""The description in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mlx_phi3v.errors import shown

from .figures import Bin, Description, FieldFigures

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHOWN = 20


def show(description: Description, console: Console) -> None:
    """Print the description."""
    d = description
    console.print(
        f"[bold]{escape(shown(d.name))}[/bold]",
        ", ".join(f"{name} {count:,}" for name, count in d.rows.items()),
        highlight=False,
    )
    if d.counts.get("rejected"):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in d.counts["rejected"].items())
        console.print("left out:", shown(reasons), markup=False)
    for what, count in d.duplicates.items():
        console.print(f"{what}: {count:,}", style="bold red" if count and "splits" in what else None)
    for figures in d.fields:
        _show_field(figures, list(d.rows), console)
    if d.widths:
        console.print(f"\n[bold]photos[/bold] (of {d.sampled:,} rows)")
        console.print(f"  widths  {_spark(d.widths)}\n  heights {_spark(d.heights)}", highlight=False)
    for problem in d.unreadable:
        console.print(f"  cannot be opened: {shown(problem)}", style="red", markup=False)
    if d.tokens:
        console.print("\n[bold]tokens per row[/bold]" + ("" if d.with_text else ", photos only (give --model for the text)"))
        console.print(_token_table(d))
    for preview in d.previews:
        text = Text(f"\n{shown(preview.row)}: ", style="dim")
        for piece in preview.pieces:
            text.append(piece.text, style="black on green" if piece.trained else "dim")
        console.print(text)
    if d.previews:
        console.print("(the loss is taken over the green tokens and nothing else)", style="dim")


def _show_field(figures: FieldFigures, splits: list[str], console: Console) -> None:
    item = figures.field
    missing = ", ".join(f"{split} {count:,}" for split, count in figures.missing.items())
    console.print(f"\n[bold]{item.name}[/bold] ({item.kind})", f"missing: {missing}" if missing else "", highlight=False)
    if figures.categories:
        table = Table("category", *splits, box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, counts in list(figures.categories.items())[:_SHOWN]:
            table.add_row(Text(shown(name)), *(f"{counts.get(split, 0):,}" for split in splits))
        console.print(table)
        if len(figures.categories) > _SHOWN:
            console.print(f"  and {len(figures.categories) - _SHOWN} more", style="dim")
    if figures.histogram:
        console.print(f"  {_spark(figures.histogram)}", highlight=False)
    for what, values in (("", figures.quantiles), ("characters: ", figures.lengths)):
        if values:
            console.print("  " + what + ", ".join(f"{name} {value:.6g}" for name, value in values.items()), highlight=False)


def _token_table(d: Description) -> Table:
    title = "tokens per row" + ("" if d.with_text else ", photos only (give --model for the text)")
    table = Table("num_crops", "median", "95 %", "largest", "photos", *(["too long"] if d.limit else []), title=title, box=None)
    for column in table.columns:
        column.justify = "right"
    for t in d.tokens:
        over = [f"{t.over} of {d.sampled}"] if d.limit else []
        table.add_row(*(f"{n:,}" for n in (t.num_crops, t.median, t.p95, t.largest, t.image_median)), *over)
    return table


def _spark(bins: Sequence[Bin]) -> str:
    top = max(item.count for item in bins)
    marks = "".join(_BLOCKS[-(-item.count * (len(_BLOCKS) - 1) // top)] for item in bins)
    return f"{bins[0].low:.4g} {marks} {bins[-1].high:.4g}"
