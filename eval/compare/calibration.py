"""Whether a run is as often right as its log-probabilities say: a reliability curve for each field.

A value's confidence is the probability that the model gave it: the product over the value's tokens, in the answer so far. It
counts as right where it is exactly the true value, which is what that probability is of. The expected calibration error is
the mean of |share right - mean confidence| over ten equal bins of confidence, weighted by their rows (Guo et al. 2017). It is
never below zero: on few rows, chance alone gives some points.

Which tokens are a field's is found with the run's tokenizer, where it is on this machine with the recorded hash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..runs.columns import FieldColumn
from .paired_runs import PairedRuns
from .statistics import Bools, Floats, Interval, wilson
from .value_tokens import tokenizer_of, value_logprobs

BINS = 10
_ROWS = 10_000  # read again for it, spread evenly over the run
_SAME = 1e-9


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose confidence is in one bin. `interval`: Wilson's, at 95 %, of the share right."""

    rows: int
    confidence: float  # mean
    right: float
    interval: Interval


@dataclass(frozen=True)
class Calibration:
    """One field of one run. `error`: the expected calibration error, as a share."""

    field: str
    side: str
    rows: int
    confidence: float
    right: float
    error: float
    bins: list[ReliabilityBin]


def calibrate(data: PairedRuns) -> list[Calibration]:
    """Every field of both runs; empty where no log-probabilities were recorded or no tokenizer is here."""
    texts = {"A": tokenizer_of(data.run_a), "B": tokenizer_of(data.run_b)}
    found = texts["A"] or texts["B"]
    hashes = [(run.manifest.get("hashes") or {}).get("tokenizer") for run in (data.run_a, data.run_b)]
    if found is None or (hashes[0] != hashes[1] and None in texts.values()):
        return []
    every = max(1, math.ceil(len(data.join.ids) / _ROWS))
    chosen = list(range(0, len(data.join.ids), every))
    known: dict[str, dict[str, list[float]]] = {side: {name: [] for name in data.fields_a} for side in "AB"}
    for rows in data.rows(chosen):
        for side, row in zip("AB", rows):
            values = value_logprobs(row, data.run_a.task, texts[side] or found)
            for name, every_row in known[side].items():
                every_row.append(values.get(name, math.nan))
    numbers = np.array(chosen, dtype=np.int64)
    results = []
    for name in data.fields_a:
        for side, fields in (("A", data.fields_a), ("B", data.fields_b)):
            logprobs = np.array(known[side][name], dtype=np.float64)
            item = _calibration(name, side, fields[name].take(numbers), logprobs)
            results += [item] if item else []
    return results


def _calibration(field: str, side: str, column: FieldColumn, logprobs: Floats) -> Calibration | None:
    mask = column.has_truth & column.parsed & np.isfinite(logprobs)
    if not mask.any():
        return None
    confidence = np.exp(np.minimum(logprobs[mask], 0.0))
    return reliability(field, side, confidence, _exact(column)[mask])


def _exact(column: FieldColumn) -> Bools:
    if column.kind == "number":
        return np.asarray(np.abs(column.predicted - column.true) <= _SAME * np.abs(column.true))
    return np.asarray(column.predicted == column.true, dtype=np.bool_)


def reliability(field: str, side: str, confidence: Floats, right: Bools) -> Calibration:
    """The curve and its error, of confidences in [0, 1] [n] and which values are right [n]; n > 0.

    >>> import numpy as np
    >>> found = reliability("x", "A", np.array([0.9, 0.9, 0.2, 0.2]), np.array([True, True, True, False]))
    >>> round(found.error, 3), [bin.rows for bin in found.bins]
    (0.2, [2, 2])
    """
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(place):
        here = place == number
        rows, hits = int(here.sum()), int(right[here].sum())
        item = ReliabilityBin(rows, float(confidence[here].mean()), hits / rows, wilson(hits, rows))
        bins.append(item)
        error += rows / len(confidence) * abs(item.right - item.confidence)
    return Calibration(field, side, len(confidence), float(confidence.mean()), float(right.mean()), error, bins)
