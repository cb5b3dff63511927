"""Scores of harnesses as numbers from 0 to 1."""

from __future__ import annotations

import math
from typing import Any

_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # of Inspect: correct, partial, incorrect, no answer
_SAID = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def as_number(value: Any) -> float | None:
    """A score's value as a number; None where it has none. Letters and words as Inspect reads them.

    >>> [as_number(value) for value in (True, 0.25, "C", "P", "No", "0.5", "n/a", None)]
    [1.0, 0.25, 1.0, 0.5, 0.0, 0.5, None, None]
    """
    if isinstance(value, str):
        if value in _WORDS:
            return _WORDS[value]
        if value.lower() in _SAID:
            return _SAID[value.lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def is_share(value: float) -> bool:
    """Whether a score is one that a margin in points fits."""
    return 0.0 <= value <= 1.0
