"""Look at a catalogue before training on it: `python -m data.describe DIR`.

Prints counts, categories, prices, picture sizes, tokens per row and duplicates, and writes them with a contact sheet
as one self-contained page beside the catalogue (or to --page).

    python -m data.describe runs/photos
    python -m data.describe runs/photos --model ~/Phi-3.5-vision --page photos.html
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import write_text

from .catalogue import Catalogue
from .description import Bin, Description, FieldFigures, describe

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHOWN = 20


@dataclass(frozen=True)
class DescribeSettings:
    """One run of `data.describe`."""

    catalogue: Path = option(help="folder of the catalogue", positional=True)
    model: Path | None = option(None, help="folder of a model: its tokenizer counts the text and shows what is trained")
    num_crops: tuple[int, ...] = option((1, 4, 16), help="count tokens at these settings")
    max_length: int | None = option(None, help="most tokens a row may take; by default the model's own limit")
    sample: int = option(1000, help="rows whose pictures and tokens are looked at")
    pictures: int = option(48, help="pictures on the contact sheet")
    seed: int = option(0, help="the same seed looks at the same rows")
    page: Path | None = option(None, help="HTML page to write; by default NAME.html beside the catalogue")
    json: bool = option(False, help="print progress and the figures as JSON lines")


def write_page(path: Path, description: Description) -> None:
    """Write the description as one HTML file that needs nothing else, whole or not at all."""
    import jinja2

    # What stands in a catalogue is a stranger's text: every value is escaped, and the page may load nothing.
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    write_text(path, environment.get_template("describe.html").render(d=description))


def show(description: Description, console: Console) -> None:
    """Print the description."""
    d = description
    console.print(f"[bold]{d.name}[/bold]", ", ".join(f"{name} {count:,}" for name, count in d.rows.items()), highlight=False)
    if d.counts.get("rejected"):
        console.print("left out:", ", ".join(f"{reason} {count:,}" for reason, count in d.counts["rejected"].items()))
    for what, count in d.duplicates.items():
        console.print(f"{what}: {count:,}", style="bold red" if count and "splits" in what else None)
    for figures in d.fields:
        _show_field(figures, list(d.rows), console)
    if d.widths:
        console.print(f"\n[bold]pictures[/bold] (of {d.sampled:,} rows)")
        console.print(f"  widths  {_spark(d.widths)}\n  heights {_spark(d.heights)}", highlight=False)
    for fault in d.unreadable:
        console.print(f"  cannot be opened: {fault}", style="red", markup=False)
    if d.tokens:
        console.print("\n[bold]tokens per row[/bold]" + ("" if d.with_text else ", pictures only (give --model for the text)"))
        console.print(_token_table(d))
    for preview in d.previews:
        text = Text(f"\n{preview.row}: ", style="dim")
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
            table.add_row(Text(name), *(f"{counts.get(split, 0):,}" for split in splits))
        console.print(table)
        if len(figures.categories) > _SHOWN:
            console.print(f"  and {len(figures.categories) - _SHOWN} more", style="dim")
    if figures.histogram:
        console.print(f"  {_spark(figures.histogram)}", highlight=False)
    for what, values in (("", figures.quantiles), ("characters: ", figures.lengths)):
        if values:
            console.print("  " + what + ", ".join(f"{name} {value:.6g}" for name, value in values.items()), highlight=False)


def _token_table(d: Description) -> Table:
    title = "tokens per row" + ("" if d.with_text else ", pictures only (give --model for the text)")
    table = Table(
        "num_crops", "median", "95 %", "largest", "pictures", *(["too long"] if d.limit else []), title=title, box=None
    )
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings = parse(DescribeSettings, "python -m data.describe", __doc__ or "", argv)
    for name in ("sample", "pictures"):
        if getattr(settings, name) < 0:
            raise UserError(f"--{name} is {getattr(settings, name)}; give 0 or more")
    if not settings.num_crops or min(settings.num_crops) < 1:
        raise UserError(f"--num-crops is {settings.num_crops}; give numbers of 1 or more")
    catalogue = Catalogue(settings.catalogue)
    description = describe(
        catalogue,
        model=settings.model,
        num_crops=settings.num_crops,
        max_length=settings.max_length,
        sample=settings.sample,
        pictures=settings.pictures,
        seed=settings.seed,
        as_json=settings.json,
    )
    folder = settings.catalogue.resolve()
    page = settings.page or folder.with_name(f"{folder.name}.html")
    write_page(page, description)
    if settings.json:
        figures = dataclasses.asdict(dataclasses.replace(description, sheet=(), previews=()))
        print(json.dumps(figures | {"task": description.task.to_dict(), "page": str(page)}, ensure_ascii=False))
    else:
        show(description, Console())
        print(f"page: {page}")
    return 0


if __name__ == "__main__":
    run_cli(main)
