"""The part of the terminal report that says where the runs err."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mlx_phi3v.text import printable

from ..compare.comparison import Comparison
from ..compare.price_errors import PriceErrors
from . import place_phrases as phrases

_CELLS = 3


def error_places(comparison: Comparison) -> RenderableType | None:
    """Prices by band and money, the cells of the confusion that change most, calibration."""
    places = comparison.error_places
    blocks: list[RenderableType] = []
    for item in places.prices:
        if item.bands:
            blocks.append(_bands(item))
        blocks += [_text(line) for line in phrases.money_lines(item)]
    for heading, lines in (
        ("Categories that change (A | B)", list(_changes(comparison))),
        ("Calibration error (how sure, how often exactly right)", list(_calibrations(comparison))),
    ):
        blocks += [Text(f"\n{heading}", style="dim"), *lines] if lines else []
    return Group(*blocks) if blocks else None


def _changes(comparison: Comparison) -> Iterator[Text]:
    for change in comparison.error_places.confusion:
        # A row that moves leaves the right cell and enters another: the wrong cells say it all.
        wrong = [cell for cell in change.cells if cell.true != cell.predicted and cell.change]
        yield from (_text(f"{change.field}: {phrases.cell_line(cell)}") for cell in wrong[:_CELLS])


def _calibrations(comparison: Comparison) -> Iterator[Text]:
    for name, items in phrases.by_field(comparison.error_places.calibration).items():
        yield _text(f"{name}: {phrases.calibration_line(items)}")


def _text(value: str) -> Text:
    return Text(printable(value, lines=True))


def _bands(item: PriceErrors) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column(_text(f"{item.field}, true{f' ({item.currency})' if item.currency else ''}"), width=20, overflow="fold")
    for heading, width in (("rows", 6), ("10 % A", 7), ("B", 7), ("B - A", 8), ("95 %", 18), ("bias B", 8)):
        grid.add_column(heading, width=width, justify="right")
    for band in item.bands:
        low, high = band.interval
        grid.add_row(
            phrases.band(band),
            f"{band.rows:,}",
            phrases.percent(band.within_10_a),
            phrases.percent(band.within_10_b),
            Text(phrases.points(band.difference), style="bold" if low > 0 or high < 0 else ""),
            phrases.span(band.interval),
            phrases.percent(band.bias_b, True),
        )
    return grid
