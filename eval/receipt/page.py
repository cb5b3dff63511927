"""`receipt.md`: a receipt as a page to read."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.hub.markdown import table
from mlx_phi3v.receipt import Measure, Receipt
from mlx_phi3v.text import printable


def receipt_page(receipt: Receipt) -> str:
    """The receipt as Markdown."""
    lines = [
        "# Receipt",
        "",
        f"**{_plain(receipt.line)}.**",
        "",
        f"`{_plain(receipt.after)}` against `{_plain(receipt.before)}`, on the first {receipt.rows:,} rows of the split "
        f"`{_plain(receipt.split)}` of `{_plain(Path(receipt.catalogue).name)}`, {receipt.made}.",
        "",
        *table(["measure", "before", "after", "difference", "95 % interval", "margin"], map(_cells, receipt.measures)),
        "The verdict is that of `eval.compare`; only the measures with a margin decide. SAME: every answer has the same",
        "tokens, and rounding explains what is left. DIFFERENT: the model had to compute the same, and does not.",
        "",
        *(f"- {name}: `{_plain(value)}`" for name, value in {**receipt.fingerprints, **receipt.versions}.items()),
    ]
    return "\n".join(lines) + "\n"


def _cells(measure: Measure) -> list[str]:
    interval = f"{_number(measure.low)} to {_number(measure.high)}" if measure.low is not None else ""
    return [
        measure.name,
        *map(_number, (measure.before, measure.after, measure.difference)),
        interval,
        _number(measure.margin),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _plain(text: str) -> str:
    return printable(text).replace("`", "'").replace("|", "/")
