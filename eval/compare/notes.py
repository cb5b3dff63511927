"""What a reader must know before trusting a comparison: rows left out or repeated, runs unfinished or truncated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..runs.columns import RunColumns
from ..runs.run import Run
from .paired_runs import PairedRuns

_SHOWN_IDS = 10


def make_notes(data: PairedRuns) -> list[str]:
    """The notes, one sentence each."""
    a, b = set(data.columns_a.fields), set(data.columns_b.fields)
    notes = [
        f"{_count(len(ids), 'row')} only in {name}, left out of the measures: {_listed(ids)}"
        for name, ids in (("A", data.join.only_a), ("B", data.join.only_b))
        if ids
    ]
    notes += _notes_of_run("A", data.run_a, data.columns_a)
    notes += _notes_of_run("B", data.run_b, data.columns_b)
    if a != b:
        notes.append(f"fields only one run has are left out: {', '.join(sorted(a ^ b))}")
    return notes


def _notes_of_run(name: str, run: Run, columns: RunColumns) -> Iterator[str]:
    yield from notes_of_rows(name, run, columns)
    if not run.finished:
        yield f"{name} ({run.label}) is unfinished: resume it with eval.predict before you trust this comparison"


def notes_of_rows(name: str, run: Run, columns: RunColumns) -> Iterator[str]:
    """What is wrong with the rows of a run: repeats, and a truncated last line."""
    if columns.duplicates:
        ids = [identity for identity, _ in columns.duplicates]
        unlike = [identity for identity, same in columns.duplicates if not same]
        repeats = f"; the repeats of {_listed(unlike)} have other values" if unlike else "; the repeats are equal"
        yield f"{_count(len(ids), 'row')} repeated in {name}, the first is used: {_listed(ids)}{repeats}"
    if run.truncated:
        yield f"{name}'s last line is truncated and left out"


def values_unlike_answers(name: str, run: Run, columns: RunColumns) -> Iterator[str]:
    """Where a run's values are not those that its answers give: changed by hand, or parsed by another version."""
    if columns.unlike_text:
        yield (
            f"{len(columns.unlike_text):,} of {name}'s {len(columns.ids):,} rows, such as {columns.unlike_text[0]}, hold "
            f"other values than their answers give (changed, or parsed by another version): "
            f"python -m eval.score {run.path} --output NEW_RUN parses them again"
        )


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more


def _count(n: int, one: str) -> str:
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"
