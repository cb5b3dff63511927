"""One prediction: what stands in a line of `predictions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task, is_missing

STATUSES = ("ok", "missing", "duplicate", "malformed", "truncated")


def true_values(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """The `true` entry of a prediction: the task's fields of a catalogue row, None where there is no value."""
    return {item.name: None if is_missing(row.get(item.name)) else row[item.name] for item in task.fields}


def predicted_values(task: Task, text: str, *, truncated: bool) -> dict[str, dict[str, Any]]:
    """The `predicted` entry of a prediction: each field's value and parse status, read from the answer."""
    parsed = task.parse(text, truncated=truncated)
    return {name: {"value": item.value, "status": item.status} for name, item in parsed.items()}


def _read_json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # Python writes NaN, which JSON has not
        return json.loads(line)


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = _read_json(line)
    except ValueError:
        raise UserError(f"{path} line {number} is not whole JSON; remove that line and resume the run") from None
    if not isinstance(row, dict) or not {"id", "true", "predicted"} <= set(row):
        raise UserError(f"{path} line {number} lacks one of id, true, predicted; it is no prediction")
    return row
