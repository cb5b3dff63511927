"""A harness' log as a run: its task, its rows and its manifest.

Where the log has scores, each is a field of kind `score`, and the answer is kept as text beside them. Where it has none, the
one field is the answer, a text that is held against the target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlx_phi3v.task import Field, ParsedField, Task

from ..prediction import Prediction
from .log import HarnessLog, LoggedSample

ANSWER = "answer"
TARGET, DOCUMENT = "target", "document"  # of a row's true values: what was asked, to be equal in both runs
_IN_A_TEMPLATE = re.compile(r"[{}!:\[\].]")


def task_of(log: HarnessLog) -> Task:
    """The task whose fields are the log's scores, or the answer alone."""
    if not log.scores:
        return Task((Field(ANSWER, "text"),), "", f"{{{ANSWER}}}")
    fields = tuple(Field(name, "score") for name in _names(log).values())
    return Task(fields, "", ", ".join(f"{item.name}: {{{item.name}}}" for item in fields))


def _names(log: HarnessLog) -> dict[str, str]:
    """Score -> field: without the signs that a template reads."""
    return {name: _IN_A_TEMPLATE.sub("_", name) for name in log.scores}


def manifest_of(log: HarnessLog, label: str) -> dict[str, Any]:
    """The run's manifest."""
    return {
        "backend": log.tool,
        "label": label,
        "hashes": {},
        "settings": {},
        "task": task_of(log).to_dict(),
        "model": log.model,
        "split": log.task,
        "split_rows": log.split_rows,
        "limit": log.limit,
        "shard": None,
    }


def predictions_of(log: HarnessLog) -> Iterator[Prediction]:
    """The rows, in the log's order. A sample without a score has none: it counts as 0."""
    names, task = _names(log), task_of(log)
    for sample in log.samples:
        yield _scored(sample, names) if names else _answered(sample, task)


def _scored(sample: LoggedSample, names: dict[str, str]) -> Prediction:
    values = {field: sample.scores.get(name) for name, field in names.items()}
    predicted = {
        field: ParsedField(None, "missing") if value is None else ParsedField(value, "ok") for field, value in values.items()
    }
    return Prediction(sample.id, dict.fromkeys(values, 1.0) | _asked(sample), predicted, sample.text)


def _answered(sample: LoggedSample, task: Task) -> Prediction:
    text = sample.text or ""
    true = {ANSWER: sample.target or None, **_asked(sample)}
    return Prediction(sample.id, true, task.parse(text), text)


def _asked(sample: LoggedSample) -> dict[str, Any]:
    found = {TARGET: sample.target, DOCUMENT: sample.document}
    return {name: value for name, value in found.items() if value}
