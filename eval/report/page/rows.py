"""The rows a page shows in full: the worst, and a sample over all outcomes, with both texts and a thumbnail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mlx_phi3v.photo import thumbnail

from ...compare.comparison import Comparison
from ...compare.diverged_rows import DivergedRow
from ...compare.own_photos import own_photo
from ...compare.paired_measures import NO_CATEGORY
from ...compare.paired_runs import OUTCOMES
from ...runs.harness_logs.as_run import DOCUMENT
from ...runs.prediction import Prediction
from .. import phrases
from .place_charts import cell_rows, rows_of_cells

_THUMBNAIL = 96  # pixels of its longer side
_THUMBNAIL_BYTES = 1_500_000  # of all thumbnails together
_TEXT = 600  # characters of an answer
SAME = "same answer"


@dataclass(frozen=True)
class Answer:
    """One run's answer in three pieces: what both answers begin with, the first word that differs, the rest."""

    alike: str
    first: str
    rest: str
    right: bool


@dataclass(frozen=True)
class ShownRow:
    """One row as the page shows it."""

    id: str
    outcome: str
    fields: str  # which runs are right, field by field where they differ
    category: str
    cause: str
    detail: str
    true: list[tuple[str, str]]
    a: Answer
    b: Answer
    thumbnail: str | None  # a data URI
    cells: list[str]  # of the confusion that it entered or left, see `place_charts.cell_key`


def pick_rows(comparison: Comparison, *, worst: int, sampled: int, seed: int) -> list[ShownRow]:
    """The `worst` rows first, then up to `sampled` others, evenly over the four outcomes."""
    data = comparison.data
    position = {identity: i for i, identity in enumerate(data.join.ids)}
    diverged = {row.id: row for row in comparison.diverged}
    changes = comparison.error_places.confusion
    cells = cell_rows(changes)
    chosen = [position[row.id] for row in comparison.diverged[:worst]]
    chosen += [position[identity] for identity in rows_of_cells(changes) if position[identity] not in set(chosen)]
    chosen += _sample(comparison, set(chosen), sampled, seed)
    budget = _THUMBNAIL_BYTES
    rows = []
    for i, (row_a, row_b) in zip(chosen, data.rows(chosen)):
        row = _show(comparison, i, row_a, row_b, diverged.get(data.join.ids[i]), with_thumbnail=budget > 0)
        budget -= len(row.thumbnail or "")
        rows.append(replace(row, cells=cells.get(row.id, [])))
    return rows


def _sample(comparison: Comparison, taken: set[int], sampled: int, seed: int) -> Iterator[int]:
    """A quarter of the sample for each outcome; an outcome with fewer rows is not filled up from another."""
    data = comparison.data
    generator = np.random.default_rng(seed)
    a, b = data.right_a, data.right_b
    for members in (a & b, a & ~b, ~a & b, ~a & ~b):
        free = np.array([i for i in np.flatnonzero(members).tolist() if i not in taken], dtype=np.int64)
        size = min(len(free), sampled // len(OUTCOMES))
        yield from sorted(generator.choice(free, size, replace=False).tolist())


def _show(
    comparison: Comparison, i: int, row_a: Prediction, row_b: Prediction, diverged: DivergedRow | None, *, with_thumbnail: bool
) -> ShownRow:
    data = comparison.data
    a, b = split_answers(_answer(row_a), _answer(row_b), bool(data.right_a[i]), bool(data.right_b[i]))
    hidden = {DOCUMENT, *(name for name, column in data.fields_a.items() if column.kind == "score")}  # no values of a row
    margin = f", {diverged.margin:.3g} nats" if diverged and diverged.margin is not None else ""
    return ShownRow(
        id=data.join.ids[i],
        outcome=data.outcome(i),
        fields=phrases.outcome_words(data.outcome(i), data.field_outcomes(i)),
        category=data.category[i] or NO_CATEGORY,
        cause=diverged.cause if diverged else SAME,
        detail=f"{diverged.cause}{margin}: {diverged.detail}" if diverged else SAME,
        true=[(name, str(value)) for name, value in row_a.true.items() if value is not None and name not in hidden],
        a=a,
        b=b,
        thumbnail=_thumbnail(comparison, row_a, row_b) if with_thumbnail else None,
        cells=[],
    )


def _thumbnail(comparison: Comparison, row_a: Prediction, row_b: Prediction) -> str | None:
    """Of A's photo; of B's where A's is not on this machine."""
    for run, row in ((comparison.data.run_a, row_a), (comparison.data.run_b, row_b)):
        path = own_photo(run, row.image)
        if path and (made := thumbnail(path, _THUMBNAIL)):
            return made
    return None


def _answer(row: Prediction) -> str:
    text = row.text
    if text is None:  # an imported run without texts
        text = ", ".join(f"{name}: {item.value}" for name, item in row.predicted.items() if item.status == "ok")
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text) - _TEXT:,} more characters)"


def split_answers(a: str, b: str, right_a: bool, right_b: bool) -> tuple[Answer, Answer]:
    """Both answers, split where they first differ; the differing word is the one around that place."""
    if a == b:
        return Answer(a, "", "", right_a), Answer(b, "", "", right_b)
    k = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    start = 1 + max((i for i in range(k) if a[i].isspace()), default=-1)
    return _split(a, start, right_a), _split(b, start, right_b)


def _split(text: str, start: int, right: bool) -> Answer:
    end = next((i for i in range(start, len(text)) if text[i].isspace()), len(text))
    # An answer that ended here has no differing word: its end is what differs.
    return Answer(text[:start], text[start:end] or "⏹", text[end:], right)
