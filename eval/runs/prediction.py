"""A prediction: a model's answer for one row, as one line of `predictions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast, get_args

import orjson

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import ParsedField, ParseStatus, Task, is_missing

STATUSES: tuple[ParseStatus, ...] = get_args(ParseStatus)
_REQUIRED = {"id", "true", "predicted"}

TopK = list[list[tuple[int, float]]]  # for each step, the likeliest tokens and their log-probabilities in nats


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer for one row. What a run did not record is None or empty.

    id: of the catalogue row.
    true: field -> value in the catalogue, None where the row has none.
    predicted: field -> value and parse status of the answer.
    text: the answer, without its end token.
    token_ids: every token chosen, the end token too where `finish` is "end".
    logprobs: of the chosen tokens, in nats; as long as `token_ids`.
    top_k: for each token, the likeliest (id, log-probability in nats).
    finish: "end", or "length" where the answer reached its length limit.
    fingerprints: input stage (see `eval.runs.columns.STAGES`) -> hex SHA-256.
    seconds: work on this row; a batch's time is shared out evenly.
    image: path of the first photo.
    """

    id: str
    true: dict[str, Any]
    predicted: dict[str, ParsedField]
    text: str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_k: TopK = field(default_factory=list)
    finish: str | None = None
    fingerprints: dict[str, str | None] = field(default_factory=dict)
    seconds: float | None = None
    image: str | None = None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises KeyError, TypeError, ValueError or AttributeError for values of another form."""
        predicted = {
            name: ParsedField(item.get("value"), item.get("status", "missing")) for name, item in value["predicted"].items()
        }
        if not all(item.status in STATUSES for item in predicted.values()):
            raise ValueError(f"a parse status is none of {', '.join(STATUSES)}")
        return cls(
            str(value["id"]),
            dict(value["true"]),
            predicted,
            value.get("text"),
            value.get("token_ids") or [],
            value.get("logprobs") or [],
            read_top_k(value.get("top_k")),
            value.get("finish"),
            value.get("fingerprints") or {},
            value.get("seconds"),
            value.get("image"),
        )

    @classmethod
    def from_line(cls, line: bytes, path: Path, number: int) -> Self:
        """The prediction in line `number` of `path`. Raises UserError where it is not one."""
        try:
            value = read_json_line(line)
        except ValueError:
            raise UserError(f"{path} line {number} is not whole JSON; remove that line and resume the run") from None
        if not isinstance(value, dict) or not set(value) >= _REQUIRED:
            raise UserError(f"{path} line {number} lacks one of id, true, predicted; it is no prediction")
        try:
            return cls.from_dict(value)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} line {number} is no prediction ({error}); remove that line and resume the run") from None

    def to_dict(self) -> dict[str, Any]:
        """The values of its line, in the line's order. What was not recorded is left out."""
        optional = {
            "text": self.text,
            "token_ids": self.token_ids or None,
            "logprobs": self.logprobs or None,
            "top_k": self.top_k or None,
            "finish": self.finish,
            "fingerprints": self.fingerprints or None,
            "seconds": self.seconds,
            "image": self.image,
        }
        return {
            "id": self.id,
            "true": self.true,
            "predicted": {name: {"value": item.value, "status": item.status} for name, item in self.predicted.items()},
            **{name: value for name, value in optional.items() if value is not None},
        }


def true_values(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction's `true`: the task's fields of a catalogue row, None where the row has no value."""
    return {item.name: None if is_missing(row.get(item.name)) else row[item.name] for item in task.fields}


def read_top_k(steps: list[list[list[float]]] | None) -> TopK:
    """The likeliest tokens of each step, from their JSON lists."""
    # As plain as it can be: of all values of a line these take longest.
    return cast(TopK, [list(map(tuple, step)) for step in steps or ()])


def read_json_line(line: bytes) -> Any:
    """The value of one JSON line, NaN and infinity allowed. Raises ValueError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # Python writes NaN, which JSON does not have
        return json.loads(line)
