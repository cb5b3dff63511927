"""Rows that belong together, as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from .spread import Ints


def number(values: Sequence[Hashable | None]) -> tuple[Ints, int]:
    """(the number of each value from 0 [n], how often the most frequent one is there); each None is one by itself.

    >>> number(["p1", None, "p1", None])[0].tolist()
    [0, 1, 0, 2]
    """
    seen: dict[Hashable, int] = {}
    numbers = [seen.setdefault(i if value is None else ("value", value), len(seen)) for i, value in enumerate(values)]
    return np.array(numbers, dtype=np.int64), max(Counter(numbers).values(), default=0)


def within(clusters: Ints | None, rows: Any) -> Ints | None:
    """The clusters of some rows (numbers or a mask), from 0; None where each of them is alone."""
    if clusters is None:
        return None
    names, found = np.unique(clusters[rows], return_inverse=True)
    return np.asarray(found, np.int64) if len(names) < len(found) else None
