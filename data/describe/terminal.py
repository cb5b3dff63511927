"""The description in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_phi3v.text import printable

from .figures import Bin, Description, FieldFigures

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHOWN = 20


def show(description: Description, console: Console) -> None:
    """Print the description."""
    d = description
    rows = ", ".join(f"{name} {count:,}" for name, count in d.rows.items())
    console.print(_text(d.name, "bold").append_text(_text(f" {rows}")))
    if d.counts.get("rejected"):
        console.print(_text("left out: " + ", ".join(f"{reason} {count:,}" for reason, count in d.counts["rejected"].items())))
    for what, count in d.duplicates.items():
        console.print(f"{what}: {count:,}", style="bold red" if count and _is_bad(what) else None)
    for figures in d.fields:
        _show_field(figures, list(d.rows), console)
    if d.widths:
        console.print(f"\n[bold]photos[/bold] (of {d.sampled:,} rows)")
        console.print(f"  widths  {_spark(d.widths)}\n  heights {_spark(d.heights)}", highlight=False)
    for problem in d.unreadable:
        console.print(_text(f"  cannot be opened: {problem}", "red"))
    _show_faults(d, console)
    if d.tokens:
        console.print("\n[bold]tokens per row[/bold]" + ("" if d.with_text else ", photos only (give --model for the text)"))
        console.print(_token_table(d))
    _show_long_rows(d, console)
    for preview in d.previews:
        text = _text(f"\n{preview.row}: ", "dim")
        for piece in preview.pieces:
            text.append_text(_text(piece.text, "black on green" if piece.trained else "dim"))
        console.print(text)
    if d.previews:
        console.print("(the loss is taken over the green tokens and nothing else)", style="dim")


def _is_bad(what: str) -> bool:
    return "splits" in what or "different answers" in what


def _show_faults(d: Description, console: Console) -> None:
    if d.faults:
        console.print(f"\n[bold]photos to look at[/bold] (of {d.sampled:,} sampled rows; none is left out for it)")
    for fault in d.faults:
        shown = ", ".join(fault.first[:3])
        console.print(_text(f"  {fault.name}: {fault.rows:,} ({fault.meaning}), such as {shown}"))


def _show_long_rows(d: Description, console: Console) -> None:
    if long := d.long_rows:
        counts = ", ".join(f"{name} {count:,}" for name, count in long.over.items())
        text = (
            f"too long: {sum(long.over.values()):,} of all rows take more than {long.limit:,} tokens at {long.num_crops} crops "
            f"({counts}; the longest, row {long.longest_row}, takes {long.longest:,}); train refuses them, --skip-long leaves "
            "them out"
        )
        console.print(_text(text, "bold red"))


def _text(value: object, style: str = "") -> Text:
    # Text, not str: rich reads [brackets] in a str as markup, and a catalogue's names may hold any.
    return Text(printable(value, lines=True), style=style)


def _show_field(figures: FieldFigures, splits: list[str], console: Console) -> None:
    item = figures.field
    missing = ", ".join(f"{split} {count:,}" for split, count in figures.missing.items())
    console.print(_text(f"\n{item.name}", "bold").append_text(_text(f" ({item.kind})" + (missing and f" missing: {missing}"))))
    if figures.categories:
        table = Table("category", box=None)
        for split in splits:
            table.add_column(_text(split), justify="right")
        for name, counts in list(figures.categories.items())[:_SHOWN]:
            table.add_row(_text(name), *(f"{counts.get(split, 0):,}" for split in splits))
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
