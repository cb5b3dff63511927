"""The verdict and the measures of a folder's receipt, for its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..receipt import read_receipt
from .facts import without_folders
from .markdown import number, table, text


def receipt_lines(folder: Path) -> list[str]:
    """The section; nothing where there is no receipt."""
    found = read_receipt(folder)
    if found is None:
        return []
    where = f" of {text(without_folders(found.catalogue))}" if found.catalogue else ""
    made = f" on {text(found.made)}" if found.made else ""
    lines = ["## Receipt", "", f"**{text(found.verdict)}**: compared on {number(found.rows)} held-out rows{where}{made}.", ""]
    lines += [f"{text(without_folders(found.line))}.", ""] if found.line else []
    if found.before or found.after:
        lines += [f"Before: {text(without_folders(found.before))}. After: {text(without_folders(found.after))}.", ""]
    rows = [
        [text(item.name), number(item.before), number(item.after), number(item.difference),
         f"{number(item.low)} to {number(item.high)}" if item.low is not None and item.high is not None else "–",
         number(item.margin)]
        for item in found.measures
    ]  # fmt: skip
    lines += table(["measure", "before", "after", "difference", "95 % interval", "margin"], rows) if rows else []
    if found.gap_nats is not None:
        lines += [
            f"Largest difference of a token's log-probability where the tokens are the same: {number(found.gap_nats)} nats.",
            "",
        ]
    return lines


def model_index(folder: Path, name: str) -> dict[str, Any]:
    """`ModelCardData`'s arguments for the measures of the receipt; nothing where there are none."""
    found = read_receipt(folder)
    measured = [item for item in found.measures if item.after is not None] if found else []
    if found is None or not measured:
        return {}
    from huggingface_hub import EvalResult

    data = without_folders(found.catalogue) or "held-out rows"
    results = [
        EvalResult(
            task_type="image-text-to-text", dataset_type="catalogue", dataset_name=data,
            dataset_split=found.split or None, metric_type=item.name, metric_name=item.name, metric_value=item.after,
        )
        for item in measured
    ]  # fmt: skip
    return {"model_name": name, "eval_results": results}
