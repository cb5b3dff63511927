"""Logs of Inspect: a `.eval` archive of one JSON member a sample, or one `.json` document of all.

An archive holds `header.json` (`_journal/start.json` where the run did not end), and `samples/ID_epoch_N.json`; of a large
sample `samples/ID_epoch_N/sample.json`. A sample that was answered in several epochs becomes one row with its mean
scores, as Inspect's own metrics take it by default: the epochs of one sample are not independent.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mlx_phi3v.documents import check_shape, parse_json, plain, read_json
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json

from .log import HarnessLog, LoggedSample, once
from .scores import as_number
from .zip_members import ZipMembers

INSPECT = "Inspect"
_SAMPLE = re.compile(r"samples/[^/]+(\.json|/sample\.json)")
_ATTACHMENT = "attachment://"


class DatasetShape(msgspec.Struct):
    """What is read of the data set."""

    samples: int | None = None
    sample_ids: list[int | str] | None = None


class ConfigShape(msgspec.Struct):
    """What is read of the run's settings."""

    limit: int | list[int] | None = None


class SpecShape(msgspec.Struct):
    """What is read of `eval`."""

    task: str
    model: str
    dataset: DatasetShape = msgspec.field(default_factory=DatasetShape)
    config: ConfigShape = msgspec.field(default_factory=ConfigShape)


class HeaderShape(msgspec.Struct):
    """What is read of the header, and of a whole `.json` log."""

    eval: SpecShape
    status: str = "started"
    samples: list[dict[str, Any]] | None = None


class ScoreShape(msgspec.Struct):
    """One scorer's score: a scalar, or several by name."""

    value: str | float | bool | list[Any] | dict[str, Any] | None


class MessageShape(msgspec.Struct):
    """A message: text, or pieces of which some are text."""

    content: str | list[Any] = ""


class ChoiceShape(msgspec.Struct):
    """One of the model's answers."""

    message: MessageShape = msgspec.field(default_factory=MessageShape)


class OutputShape(msgspec.Struct):
    """The model's answers."""

    completion: str | None = None
    choices: list[ChoiceShape] = []


class SampleShape(msgspec.Struct):
    """What is read of a sample."""

    id: int | str
    target: str | list[str]
    epoch: int = 1
    input: str | list[MessageShape] = ""
    choices: list[str] | None = None
    output: OutputShape = msgspec.field(default_factory=OutputShape)
    scores: dict[str, ScoreShape] | None = None
    attachments: dict[str, str] | list[str] = {}


def read_archive(path: Path) -> HarnessLog:
    """A `.eval` archive. Raises UserError where it is none, or where a member is corrupt or of another shape."""
    with open(path, "rb") as file:
        members = ZipMembers(path, file)
        start = next((name for name in ("header.json", "_journal/start.json") if name in members.names), None)
        if start is None:
            raise UserError(f"{path} is no log of Inspect: it has no header.json; give its .eval file")
        header = check_shape(_member(members, path, start), HeaderShape, f"{path}: {start}")
        names = [name for name in members.names if _SAMPLE.fullmatch(name)]
        found = ((plain(name), _member(members, path, name)) for name in names)
        return _log(path, header, found)


def read_document(path: Path) -> HarnessLog:
    """A `.json` log. Raises UserError where it is none, or of another shape."""
    value = read_json(path, "--input")
    if not isinstance(value, dict) or "eval" not in value:
        raise UserError(f"--input {path} is no log of Inspect (it has no 'eval'); a table needs its catalogue: give --data")
    header = check_shape(value, HeaderShape, path)
    return _log(path, header, ((f"samples[{i}]", sample) for i, sample in enumerate(header.samples or [])))


def _member(members: ZipMembers, path: Path, name: str) -> Any:
    place = f"{path}: {plain(name)}"
    try:
        return parse_json(members.read(name), place, nan_is_null=True)
    except ValueError as error:
        raise UserError(f"{place} is not valid JSON ({error}); get the archive again") from None


def _log(path: Path, header: HeaderShape, samples: Iterator[tuple[str, Any]]) -> HarnessLog:
    spec, limit = header.eval, header.eval.config.limit
    epochs: dict[str, list[tuple[str, SampleShape]]] = {}
    for place, value in samples:
        shape = check_shape(value, SampleShape, f"{path}: {place}")
        epochs.setdefault(str(shape.id), []).append((place, shape))
    first = limit if isinstance(limit, int) else None
    asked = spec.dataset.sample_ids
    rows = spec.dataset.samples if first is not None or (limit is None and asked is None) else len(asked) if asked else None
    found = once((_sample(path, identity, group) for identity, group in epochs.items()), path)
    return HarnessLog(INSPECT, spec.task, spec.model, found, rows, first, header.status)


def _sample(path: Path, identity: str, epochs: list[tuple[str, SampleShape]]) -> LoggedSample:
    epochs = sorted(epochs, key=lambda item: item[1].epoch)
    for (place, shape), (other, following) in itertools.pairwise(epochs):
        if shape.epoch == following.epoch:
            raise UserError(f"{path} {other} repeats the sample {plain(identity)} of {place}; keep one of them")
    place, shape = epochs[0]
    asked = shape.input if isinstance(shape.input, str) else [_content(message.content) for message in shape.input]
    target = shape.target if isinstance(shape.target, str) else (shape.target or [""])[0]
    document = sha256_json({"input": asked, "choices": shape.choices, "target": shape.target})[:16]
    return LoggedSample(identity, place, target.strip(), _answer(shape), document, _mean_scores(shape for _, shape in epochs))


def _mean_scores(shapes: Iterator[SampleShape]) -> dict[str, float | None]:
    """The mean of each score over a sample's epochs; of a scorer that gives several, each by its name."""
    values: dict[str, list[float]] = {}
    for shape in shapes:
        for scorer, score in (shape.scores or {}).items():
            parts = score.value.items() if isinstance(score.value, dict) else [("", score.value)]
            for part, value in parts:
                kept = values.setdefault(f"{scorer}/{part}" if part else scorer, [])
                if (number := as_number(value)) is not None:
                    kept.append(number)
    return {name: sum(kept) / len(kept) if kept else None for name, kept in values.items()}


def _answer(shape: SampleShape) -> str | None:
    text = shape.output.completion
    if not text and shape.output.choices:
        text = _content(shape.output.choices[0].message.content)
    attached = shape.attachments if isinstance(shape.attachments, dict) else {}
    return attached.get(text.removeprefix(_ATTACHMENT), text) if text else None


def _content(content: str | list[Any]) -> str:
    """A message's text, its pieces joined."""
    if isinstance(content, str):
        return content
    return "\n".join(str(piece["text"]) for piece in content if isinstance(piece, dict) and piece.get("type") == "text")
