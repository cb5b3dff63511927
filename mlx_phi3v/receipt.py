"""`receipt.json`: what a fused, converted or quantised folder costs against what it was made of.

`eval.receipt` writes it into the folder, after `eval.compare` judged both on held-out rows. This is its form, for whoever
reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from .documents import read_as

RECEIPT_FILE, RECEIPT_PAGE = "receipt.json", "receipt.md"


class Measure(msgspec.Struct, kw_only=True, frozen=True):
    """One measure of both models. `low`, `high`: the 95 % interval of `difference`, after - before; null where there is none.

    margin: the largest difference that still counts as equal; null where the measure does not decide.
    """

    name: str
    before: float | None
    after: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    margin: float | None = None


class Receipt(msgspec.Struct, kw_only=True, frozen=True):
    """`receipt.json`.

    verdict: of `eval.compare` (EQUIVALENT, WORSE, BETTER, INCONCLUSIVE or NOT MEANINGFUL), or SAME where every answer has the
    same tokens. gap_nats: the largest difference of a token's log-probability over rows with the same tokens; null where no
    row has. before, after: what was compared, in words. made: the day, as YYYY-MM-DD.
    """

    verdict: str
    rows: int
    measures: list[Measure]
    gap_nats: float | None
    before: str
    after: str
    made: str
    versions: dict[str, str]
    same_tokens: int = 0  # rows whose answers have the same tokens
    catalogue: str = ""
    split: str = ""
    fingerprints: dict[str, str] = {}  # SHA-256 of the weights, the catalogue and the adapter, by name
    line: str = ""  # the verdict as one sentence


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of a model folder; None where there is none. Raises UserError where the file is not of this form."""
    path = folder / RECEIPT_FILE
    return read_as(path, "receipt", Receipt) if path.exists() else None


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """The receipt as plain values, for `files.write_json`."""
    values: dict[str, Any] = msgspec.to_builtins(receipt)
    return values
