"""What a reader must know before the verdict itself: said in the first lines of a report."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from .absent_rows import AbsentRows
from .comparable import RunDifference
from .decoded_pixels import PixelChange
from .misjoined import Misjoined
from .notes import values_unlike_answers
from .other_files import other_files_remarks
from .paired_runs import PairedRuns
from .spelling import spelling_remarks
from .transformed import transformed_remarks

# What may differ between two runs of one system: where and how fast it ran.
_NO_OTHER_SYSTEM = ("batch_size", "processes", "code", "device", "packages", "adapter", "model", "merged")


def make_remarks(
    data: PairedRuns, differences: Collection[RunDifference], absent: AbsentRows, misjoined: Misjoined | None,
    pixels: PixelChange | None,
) -> list[str]:  # fmt: skip
    """The remarks, one sentence each."""
    remarks = [*_same_run(data, differences), *absent.sentences()]
    remarks += _one_without_adapter(data)
    transformed, moved = ([misjoined.sentence()], False) if misjoined else transformed_remarks(data)
    remarks += transformed
    if not moved:
        remarks += other_files_remarks(data)
    remarks += spelling_remarks(data)
    for name, run, columns in (("A", data.run_a, data.columns_a), ("B", data.run_b, data.columns_b)):
        remarks += values_unlike_answers(name, run, columns)
    if pixels:
        remarks.append(pixels.sentence())
    return remarks


def _same_run(data: PairedRuns, differences: Collection[RunDifference]) -> list[str]:
    """Whether a run is compared with itself, or one adapter with itself."""
    if data.run_a.path.resolve() == data.run_b.path.resolve():
        return ["A and B are the same run: it is compared with itself"]
    if _same_content(data):
        return ["A and B hold the same answers to the last digit: a run is compared with itself, or with its copy"]
    a, b = data.run_a.manifest, data.run_b.manifest
    hashes = a.get("hashes") or {}
    other = [item.name for item in differences if item.name.split(".")[0] not in _NO_OTHER_SYSTEM]
    if hashes.get("base") and a.get("backend") == b.get("backend") and not other and _same_weights(data):
        what = "adapter" if hashes.get("adapter") else "model"
        return [f"A and B are the same {what} with the same settings on the same backend: this shows how far it repeats itself"]
    return []


def _one_without_adapter(data: PairedRuns) -> list[str]:
    hashes = [run.manifest.get("hashes") or {} for run in (data.run_a, data.run_b)]
    if not all(found.get("base") for found in hashes) or hashes[0]["base"] != hashes[1]["base"]:
        return []
    have = [bool(found.get("adapter")) for found in hashes]
    if have[0] == have[1]:
        return []
    without, other = ("B", "A") if have[0] else ("A", "B")
    return [f"{without} is the model without an adapter, {other} with one"]


def _same_weights(data: PairedRuns) -> bool:
    a, b = (run.manifest.get("hashes") or {} for run in (data.run_a, data.run_b))
    return all(a.get(name) == b.get(name) for name in ("base", "adapter"))


def _same_content(data: PairedRuns) -> bool:
    """Whether all rows, their answers and their log-probabilities are equal."""
    if data.join.only_a or data.join.only_b:
        return False
    for name in ("text", "tokens", "predicted", "true"):
        left, right = data.digests(name)
        if not np.array_equal(left, right):
            return False
    return np.array_equal(_logprobs(data, 0), _logprobs(data, 1), equal_nan=True)


def _logprobs(data: PairedRuns, side: int) -> np.ndarray:
    """All log-probabilities of the joined rows, in A's order."""
    columns, rows = ((data.columns_a, data.join.a), (data.columns_b, data.join.b))[side]
    bounds = columns.tokens.bounds
    parts = [columns.tokens.logprobs[bounds[i] : bounds[i + 1]] for i in rows.tolist()]
    return np.concatenate(parts) if parts else np.zeros(0)
