"""Values that differ in case or Unicode form only: "COATS" and "coats", an accent as one character or as two."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mlx_phi3v.text import in_form

from .paired_runs import PairedRuns

_LEAST = 0.01  # of the rows: fewer are not worth a first line


@lru_cache(maxsize=100_000)
def fold(text: str) -> str:
    """The text without its case and Unicode form.

    >>> fold("CAFE\\u0301") == fold("caf\\u00e9")
    True
    """
    return in_form("NFC", in_form("NFKC", text).casefold())


def alike(a: Any, b: Any) -> bool:
    """Whether two different texts are the same but for case and Unicode form."""
    return isinstance(a, str) and isinstance(b, str) and a != b and fold(a) == fold(b)


def spelling_remarks(data: PairedRuns) -> list[str]:
    """Which run's values would be right but for case and Unicode form, field by field."""
    found = []
    for side, fields in (("A", data.fields_a), ("B", data.fields_b)):
        for name, column in fields.items():
            if column.kind == "number":
                continue
            wrong = np.flatnonzero(column.has_truth & column.parsed & (column.true != column.predicted)).tolist()
            count = sum(alike(column.true[i], column.predicted[i]) for i in wrong)
            if count > _LEAST * len(column.true):
                found.append(
                    f"{side}'s {name} differs from the true value in case or Unicode form only in {count:,} of "
                    f"{len(column.true):,} rows, which count as wrong"
                )
    return found
