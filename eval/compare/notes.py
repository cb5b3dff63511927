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
    if columns.duplicates:
        ids = [identity for identity, _ in columns.duplicates]
        unlike = [identity for identity, same in columns.duplicates if not same]
        repeats = f"; the repeats of {_listed(unlike)} have other values" if unlike else "; the repeats are equal"
        yield f"{_count(len(ids), 'row')} repeated in {name}, the first is used: {_listed(ids)}{repeats}"
    if not run.finished:
        yield f"{name} ({run.label}) is unfinished: resume it with eval.predict before you trust this comparison"
    if run.truncated:
        yield f"{name}'s last line is truncated and left out"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more


def _count(n: int, one: str) -> str:
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"
