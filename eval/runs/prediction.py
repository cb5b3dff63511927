"""A prediction: a model's answer for one row, as one line of `predictions.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

import msgspec
from msgspec import UNSET

from mlx_phi3v.documents import shown
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import NUMBERS, ParsedField, ParseStatus, Task, is_missing

from .lines import LineDecoder
from .shapes import PredictionShape, TopK

STATUSES: tuple[ParseStatus, ...] = get_args(ParseStatus)
LARGEST = 1e100  # of a number: more than any price, and its square is still a float


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
    product: what all rows of the same product share (`mlx_phi3v.catalogue.PRODUCT`).
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
    product: str | None = None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises msgspec.ValidationError (a ValueError) for values of another shape."""
        return cls.from_shape(msgspec.convert(value, PredictionShape))

    @classmethod
    def from_shape(cls, line: PredictionShape) -> Self:
        """The prediction of a line."""
        predicted = {
            name: ParsedField(None if item.value is UNSET else item.value, "missing" if item.status is UNSET else item.status)
            for name, item in line.predicted.items()
        }
        return cls(
            str(line.id),
            line.true,
            predicted,
            None if line.text is UNSET else line.text,
            [] if line.token_ids is UNSET else line.token_ids,
            [] if line.logprobs is UNSET else line.logprobs,
            [] if line.top_k is UNSET else line.top_k,
            None if line.finish is UNSET else line.finish,
            {} if line.fingerprints is UNSET else line.fingerprints,
            None if line.seconds is UNSET else line.seconds,
            None if line.image is UNSET else line.image,
            None if line.product is UNSET else line.product,
        )

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
            "product": self.product,
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


def answer_of(row: Prediction) -> str | None:
    """The answer that a row's fields were read from; None where it was not recorded, as where fields had columns of their own.

    Imports of earlier versions recorded an empty text for the latter.
    """
    if not row.text and any(item.status == "ok" for item in row.predicted.values()):
        return None
    return row.text


def parsed_again(row: Prediction, task: Task) -> dict[str, ParsedField]:
    """The fields of a row's answer, parsed by this version's code; without its answer, or scored elsewhere, those it has."""
    text = answer_of(row)
    if text is None or any(item.kind == "score" for item in task.fields):
        return row.predicted
    return task.parse(text, truncated=row.finish not in (None, "end"))


class PredictionReader:
    """Reads the lines of one run's predictions, and checks each against the run's task and vocabulary."""

    def __init__(self, path: Path, task: Task, vocabulary: int | None) -> None:
        self._path = path
        self._numbers = [item.name for item in task.fields if item.kind in NUMBERS]
        self._texts = [item.name for item in task.fields if item.kind not in NUMBERS]
        self._vocabulary = vocabulary
        self._decoder = LineDecoder(PredictionShape, "prediction")

    def read(self, line: bytes, number: int) -> Prediction:
        """The prediction in line `number` of the file. Raises UserError that names the line and its key."""
        row = Prediction.from_shape(self._decoder.read(line, self._path, number))
        problem = (
            next((found for name in self._numbers if (found := _number_problem(name, row))), None)
            or next((found for name in self._texts if (found := _text_problem(name, row))), None)
            or next((found for key, value in row.true.items() if (found := _size_problem(f"true.{key}", value))), None)
            or token_problem(row.token_ids, row.logprobs, row.top_k, self._vocabulary)
        )
        if problem:
            raise UserError(f"{self._path} line {number}: {problem}")
        return row


def _number_problem(name: str, row: Prediction) -> str | None:
    """What is wrong with the values of a field that is a number."""
    parsed = row.predicted.get(name)
    value = parsed.value if parsed and parsed.status == "ok" else None
    for key, item in ((f"true.{name}", row.true.get(name)), (f"predicted.{name}.value", value)):
        if isinstance(item, str):
            return f"{key} is {shown(item)}; it must be a number"
    return _size_problem(f"predicted.{name}.value", value)


def _text_problem(name: str, row: Prediction) -> str | None:
    """What is wrong with the values of a text or category."""
    parsed = row.predicted.get(name)
    for key, item in ((f"true.{name}", row.true.get(name)), (f"predicted.{name}.value", parsed.value if parsed else None)):
        if item is not None and not isinstance(item, str):
            return f"{key} is {shown(item)}; it must be text"
    return None


def _size_problem(key: str, value: Any) -> str | None:
    if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        return f"{key} is {shown(value)}; it must be a number of at most {LARGEST:g}"
    return None


def token_problem(token_ids: list[int], logprobs: list[float], top_k: TopK, vocabulary: int | None) -> str | None:
    """What is wrong with a row's tokens: lists that do not fit each other, or ids that the model does not have."""
    for name, items in (("logprobs", logprobs), ("top_k", top_k)):
        if items and len(items) != len(token_ids):
            return f"{name} has {len(items)} items and token_ids {len(token_ids)}; they must be as many"
    if vocabulary is None or not token_ids:
        return None
    # Tuples compare by their first item, the id.
    largest = max(max(token_ids), max((max(step)[0] for step in top_k if step), default=0))
    if largest >= vocabulary:
        return f"the token id {largest} is none of the {vocabulary} of the run's model"
    return None
