"""A run in columns: what scoring needs of 100,000 rows, without their texts and tokens.

Each row keeps its byte offset, so that the few rows of a report can be read in full.
"""

from __future__ import annotations

import math
import sys
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from mlx_phi3v.task import NUMBERS, Field, FieldKind, ParsedField, Task, clean_text, is_missing

from .prediction import STATUSES, Prediction, parsed_again
from .run import Run

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# From the file to the model: the first stage that differs is where two inputs diverge.
STAGES = ("file", "pixels", "pixel_values", "input_ids")


@dataclass(frozen=True)
class FieldColumn:
    """One field of one run, all arrays [n] in the run's own row order.

    `true` and `predicted` are floats (NaN where absent) for a number or a score, text (None where absent) otherwise.
    `ratio` and `exact` compare a text field's two values; they are zeros for the other kinds.
    """

    name: str
    kind: FieldKind
    true: NDArray[Any]
    predicted: NDArray[Any]
    has_truth: Bools
    status: NDArray[np.int8]  # an index into STATUSES
    exact: Bools
    ratio: Floats  # rapidfuzz.fuzz.ratio / 100

    @property
    def parsed(self) -> Bools:
        """Which rows' answers gave a value."""
        parsed: Bools = self.status == 0
        return parsed

    def take(self, rows: Ints) -> FieldColumn:
        """The column at these rows."""
        return FieldColumn(
            self.name,
            self.kind,
            self.true[rows],
            self.predicted[rows],
            self.has_truth[rows],
            self.status[rows],
            self.exact[rows],
            self.ratio[rows],
        )


@dataclass(frozen=True)
class TokenColumns:
    """All rows' chosen tokens end to end: row i is `ids[bounds[i] : bounds[i + 1]]`, its log-probabilities likewise.

    A row without tokens is empty; log-probabilities that were not recorded are NaN.
    """

    ids: Ints
    logprobs: Floats
    bounds: Ints


@dataclass(frozen=True)
class RunColumns:
    """A run's rows in columns, plus digests by which rows are compared cheaply."""

    ids: list[str]
    offsets: Ints
    fields: dict[str, FieldColumn]
    digests: dict[str, Ints]  # "text", "tokens", "predicted", "true" and one per input stage; 0 where not recorded
    tokens: TokenColumns
    seconds: Floats
    products: list[str | None]  # what all rows of the same product share; None where not recorded
    duplicates: list[tuple[str, bool]]  # (id, whether the repeated row is equal); the first row is used
    unlike_text: list[str]  # ids of rows whose values are not those that their answer gives

    def position(self) -> dict[str, int]:
        """id -> row."""
        return {identity: index for index, identity in enumerate(self.ids)}


def read_columns(run: Run) -> RunColumns:
    """Read a run once, row by row.

    Raises UserError for a line that is no prediction; a field that a row lacks counts as missing.
    """
    builder = _RunBuilder(run.task)
    for offset, row in run.stream():
        builder.add(offset, row)
    return builder.columns()


class _RunBuilder:
    """Collects the columns of a run."""

    def __init__(self, task: Task) -> None:
        self.fields = {item.name: _FieldBuilder(item) for item in task.fields}
        self.position: dict[str, int] = {}
        self.offsets = array("q")
        self.seconds = array("d")
        self.products: list[str | None] = []
        self.digests = {name: array("q") for name in ("text", "tokens", "predicted", "true", *STAGES)}
        self.token_ids, self.logprobs, self.bounds = array("q"), array("d"), array("q", [0])
        self.duplicates: list[tuple[str, bool]] = []
        self.task = task
        self.unlike_text: list[str] = []

    def add(self, offset: int, row: Prediction) -> None:
        """Add a row; a repeated one is noted and left out."""
        digests = _row_digests(row)
        if row.id in self.position:
            first = self.position[row.id]
            same = all(digests[name] == self.digests[name][first] for name in ("text", "predicted", "true"))
            self.duplicates.append((row.id, same))
            return
        if parsed_again(row, self.task) != row.predicted:
            self.unlike_text.append(row.id)
        self.position[row.id] = len(self.position)
        self.offsets.append(offset)
        self.seconds.append(row.seconds or 0.0)
        self.products.append(row.product)
        length = len(row.token_ids)
        self.token_ids.extend(row.token_ids)
        self.logprobs.extend(row.logprobs if len(row.logprobs) == length else [math.nan] * length)
        self.bounds.append(len(self.token_ids))
        for name, digest in digests.items():
            self.digests[name].append(digest)
        for name, builder in self.fields.items():
            builder.add(row.true.get(name), row.predicted.get(name))

    def columns(self) -> RunColumns:
        """What was collected, as arrays."""
        return RunColumns(
            ids=list(self.position),
            offsets=np.array(self.offsets, dtype=np.int64),
            fields={name: builder.column() for name, builder in self.fields.items()},
            digests={name: np.array(values, dtype=np.int64) for name, values in self.digests.items()},
            tokens=TokenColumns(np.array(self.token_ids), np.array(self.logprobs), np.array(self.bounds)),
            seconds=np.array(self.seconds),
            products=self.products,
            duplicates=self.duplicates,
            unlike_text=self.unlike_text,
        )


def _row_digests(row: Prediction) -> dict[str, int]:
    predicted = tuple((name, item.value, item.status) for name, item in sorted(row.predicted.items()))
    return {
        "text": _digest(row.text),
        "tokens": _digest(tuple(row.token_ids) or None),
        "predicted": _digest(predicted),
        "true": _digest(tuple(sorted(row.true.items()))),
        **{stage: _digest(row.fingerprints.get(stage)) for stage in STAGES},
    }


def _digest(value: Any) -> int:
    return 0 if value is None else hash(value) or 1


class _FieldBuilder:
    """Collects one field of a run."""

    def __init__(self, item: Field) -> None:
        self.item = item
        self.true: list[Any] = []
        self.predicted: list[Any] = []
        self.status: list[int] = []
        self.exact: list[bool] = []
        self.ratio: list[float] = []

    def add(self, true: Any, predicted: ParsedField | None) -> None:
        status = STATUSES.index(predicted.status if predicted else "missing")
        value = predicted.value if predicted and status == 0 else None
        true, value = self._clean(true), self._clean(value)
        if status == 0 and _absent(value):
            status = STATUSES.index("malformed")
        both = self.item.kind == "text" and not _absent(true) and not _absent(value)
        self.true.append(true)
        self.predicted.append(value)
        self.status.append(status)
        self.exact.append(both and true == value)
        self.ratio.append(fuzz.ratio(true, value) / 100 if both else 0.0)

    def _clean(self, value: Any) -> Any:
        if self.item.kind in NUMBERS:
            return _number(value)
        return None if is_missing(value) else sys.intern(clean_text(str(value)))

    def column(self) -> FieldColumn:
        numbers = self.item.kind in NUMBERS
        dtype = np.float64 if numbers else object
        true = np.array(self.true, dtype=dtype)
        missing = np.isnan(true) if numbers else np.array([value is None for value in true], dtype=bool)
        return FieldColumn(
            self.item.name,
            self.item.kind,
            true,
            np.array(self.predicted, dtype=dtype),
            ~missing,
            np.array(self.status, dtype=np.int8),
            np.array(self.exact, dtype=bool),
            np.array(self.ratio, dtype=np.float64),
        )


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def first_category(task: Task) -> str | None:
    """The category field that groups a report, where the task has one."""
    return next((item.name for item in task.fields if item.kind == "category"), None)
