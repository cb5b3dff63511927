"""A run in columns: what scoring needs of 100,000 rows, without their texts and tokens.

Each row keeps its byte offset, so that the few rows a report shows can be read again in full.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz

from mlx_phi3v.task import Field, FieldKind, Task, clean_text, is_missing

from .prediction import STATUSES
from .run import Run

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# From the file to the model: the first stage that differs is where two inputs part.
STAGES = ("file", "pixels", "pixel_values", "input_ids")


@dataclass(frozen=True)
class FieldColumn:
    """One field of one run, all arrays [n] in the run's own row order.

    `true` and `predicted` are floats (NaN where absent) for a number, text (None where absent) otherwise.
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
        return self.status == 0

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
class Tokens:
    """All rows' chosen tokens end to end: row i is `ids[bounds[i] : bounds[i + 1]]`, its log-probabilities likewise.

    A row without tokens is empty; log-probabilities that were not recorded are NaN.
    """

    ids: Ints
    logprobs: Floats
    bounds: Ints


@dataclass(frozen=True)
class Columns:
    """A run's rows in columns, plus digests that say cheaply whether two rows are the same."""

    ids: list[str]
    offsets: Ints
    fields: dict[str, FieldColumn]
    digests: dict[str, Ints]  # "text", "tokens", "predicted", "true" and one per input stage; 0 where not recorded
    tokens: Tokens
    seconds: Floats
    duplicates: list[tuple[str, bool]]  # (id, whether the repeated row says the same); the first row is used

    def position(self) -> dict[str, int]:
        """id -> row."""
        return {identity: index for index, identity in enumerate(self.ids)}


def read_columns(run: Run) -> Columns:
    """Read a run once, row by row.

    Raises UserError for a broken line; a field the row does not mention counts as missing.
    """
    builders = {item.name: _Builder(item) for item in run.task.fields}
    ids: list[str] = []
    seen: dict[str, int] = {}
    offsets: list[int] = []
    seconds: list[float] = []
    digests: dict[str, list[int]] = {name: [] for name in ("text", "tokens", "predicted", "true", *STAGES)}
    duplicates: list[tuple[str, bool]] = []
    token_ids, logprobs, bounds = array("q"), array("d"), array("q", [0])
    for offset, row in run.stream():
        identity = str(row["id"])
        tokens = row.get("token_ids") or []
        row_digests = {
            "text": _digest(row.get("text")),
            "tokens": _digest(tuple(tokens) or None),
            "predicted": _digest(_pairs(row["predicted"])),
            "true": _digest(_pairs(row["true"])),
            **{stage: _digest((row.get("fingerprints") or {}).get(stage)) for stage in STAGES},
        }
        if identity in seen:
            first = seen[identity]
            same = all(row_digests[name] == digests[name][first] for name in ("text", "predicted", "true"))
            duplicates.append((identity, same))
            continue
        seen[identity] = len(ids)
        ids.append(identity)
        offsets.append(offset)
        seconds.append(float(row.get("seconds") or 0.0))
        token_ids.extend(tokens)
        logprobs.extend(_aligned(row.get("logprobs"), len(tokens)))
        bounds.append(len(token_ids))
        for name, value in row_digests.items():
            digests[name].append(value)
        for name, builder in builders.items():
            builder.add(row["true"].get(name), row["predicted"].get(name))
    return Columns(
        ids=ids,
        offsets=np.array(offsets, dtype=np.int64),
        fields={name: builder.column() for name, builder in builders.items()},
        digests={name: np.array(values, dtype=np.int64) for name, values in digests.items()},
        tokens=Tokens(np.array(token_ids), np.array(logprobs), np.array(bounds)),
        seconds=np.array(seconds),
        duplicates=duplicates,
    )


def _aligned(logprobs: list[float] | None, length: int) -> list[float]:
    return logprobs if logprobs is not None and len(logprobs) == length else [math.nan] * length


def _pairs(value: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, item.get("value"), item.get("status")) if isinstance(item, Mapping) else (name, item)
        for name, item in sorted(value.items())
    )


def _digest(value: Any) -> int:
    return 0 if value is None else hash(value) or 1


class _Builder:
    """Collects one field of a run."""

    def __init__(self, item: Field) -> None:
        self.item = item
        self.true: list[Any] = []
        self.predicted: list[Any] = []
        self.status: list[int] = []
        self.exact: list[bool] = []
        self.ratio: list[float] = []

    def add(self, true: Any, predicted: Mapping[str, Any] | None) -> None:
        status = STATUSES.index((predicted or {}).get("status", "missing"))
        value = (predicted or {}).get("value") if status == 0 else None
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
        if self.item.kind == "number":
            return _number(value)
        return None if is_missing(value) else sys.intern(clean_text(str(value)))

    def column(self) -> FieldColumn:
        dtype = np.float64 if self.item.kind == "number" else object
        true = np.array(self.true, dtype=dtype)
        missing = np.isnan(true) if self.item.kind == "number" else np.array([value is None for value in true], dtype=bool)
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
