"""Figures and sentences on where the runs err, that the terminal report and the page share."""

from __future__ import annotations

from collections.abc import Sequence

from ..compare.calibration import Calibration
from ..compare.category_forest import CategoryDifference
from ..compare.confusion_change import ChangedCell
from ..compare.price_errors import PriceBand, PriceErrors


def points(value: float | None) -> str:
    """A share's difference in points: "+1.20"."""
    return "–" if value is None else f"{100 * value:+.2f}"


def percent(value: float | None, sign: bool = False) -> str:
    """A share: "93.5 %"."""
    return "–" if value is None else f"{100 * value:{'+' if sign else ''}.1f} %"


def span(interval: tuple[float | None, float | None]) -> str:
    """An interval in points: "-1.20 to +0.40"."""
    return f"{points(interval[0])} to {points(interval[1])}"


def band(item: PriceBand) -> str:
    """A band of true prices: "23 to 85.5"."""
    return f"{item.low:,.5g} to {item.high:,.5g}"


def money_lines(item: PriceErrors) -> list[str]:
    """What the errors of one price field add up to, and how far the two runs' prices are apart."""
    lines = []
    if item.money is not None:
        money, unit = item.money, f" {item.currency}" if item.currency else ""
        lines = [
            f"errors add up to {percent(money.error_a)} | {percent(money.error_b)} of {money.total:,.0f}{unit} "
            f"({money.rows:,} rows that both parsed): B - A {points(money.error_difference)} points, "
            f"95 % interval {span(money.error_interval)}",
            f"the total is off by {percent(money.bias_a, True)} | {percent(money.bias_b, True)}: "
            f"B - A {points(money.bias_difference)} points, 95 % interval {span(money.bias_interval)}",
        ]
    if item.equal is not None:
        lines.append(
            f"A and B give the same price on {percent(item.equal)} of {item.both:,} rows, within 10 % on {percent(item.near)}"
        )
    return lines


def forest_note(forest: Sequence[CategoryDifference]) -> str:
    """How the forest is corrected."""
    if not forest:
        return ""
    found = sum(item.differs for item in forest)
    shown = f"{found} of {len(forest)} tests show" if found != 1 else f"1 of {len(forest)} tests shows"
    return (
        f"{shown} a difference at 5 % over all of them (Holm). The intervals hold together at 95 % "
        f"({100 * forest[0].level:.4g} % each)."
    )


def cell_line(cell: ChangedCell) -> str:
    """A changed cell of the confusion: "SCARVES answered as SHIRTS: 1 | 7 rows (p1, p2)"."""
    moved = [*cell.gained, *cell.lost]
    more = ", ..." if len(moved) > 3 else ""
    answered = "right" if cell.true == cell.predicted else f"answered as {cell.predicted}"
    return f"{cell.true} {answered}: {cell.a:,} | {cell.b:,} rows ({', '.join(moved[:3])}{more})"


def calibration_line(items: Sequence[Calibration]) -> str:
    """One field's calibration, of the runs that recorded it."""
    return "; ".join(
        f"{item.side} {percent(item.error)} ({percent(item.confidence)}, {percent(item.right)}, {item.rows:,} rows)"
        for item in items
    )


def by_field(items: Sequence[Calibration]) -> dict[str, list[Calibration]]:
    """Field -> its calibrations."""
    found: dict[str, list[Calibration]] = {}
    for item in items:
        found.setdefault(item.field, []).append(item)
    return found
