"""Sample logs of lm-evaluation-harness and of lmms-eval, which grew out of it: one JSON object a line.

Both write `doc_id`, `target`, `filtered_resps` and the score of each metric under its name. lm-evaluation-harness adds `doc`,
`arguments`, `resps`, and since 0.4.3 `filter` and `metrics`, the names of the metrics. Several filters write one line
each for a document. lmms-eval has `input` in place of `doc` and `arguments`, and takes the list off a single response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from mlx_phi3v.documents import MOST_BYTES, check_shape, parse_json
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json

from ..lines import read_lines
from .log import HarnessLog, LoggedSample, once
from .scores import as_number

LM_EVAL, LMMS_EVAL = "lm-evaluation-harness", "lmms-eval"
_NO_SCORES = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash", "input", "token_counts", "input_media",
}  # fmt: skip
_NAMES = (re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT.*)?"), re.compile(r"\d{8}_\d{6}_samples_(?P<task>.+)"))
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")  # of an object that was written as text, another in every process
Responses = str | list[Any] | float | bool | None


class SampleShape(msgspec.Struct):
    """The keys of a line that are read; a metric's value is beside them, under the metric's name."""

    doc_id: int | str
    target: str | int | float | bool | list[Any] | None
    filtered_resps: Responses
    resps: Responses | UnsetType = UNSET
    filter: str | None = None
    metrics: list[str] | UnsetType = UNSET
    doc: Any = None
    arguments: Any = None


def is_sample_log(path: Path) -> bool:
    """Whether the file's first line is a sample of one of the two harnesses."""
    with open(path, "rb") as file:
        line = file.readline(MOST_BYTES + 1)
    try:
        value = parse_json(line, str(path), nan_is_null=True)
    except (ValueError, UserError):
        return False
    return isinstance(value, dict) and {"doc_id", "filtered_resps"} <= set(value)


def read_sample_lines(path: Path) -> HarnessLog:
    """The log. Raises UserError that names the line, for one that is no sample or that repeats a document."""
    lines: dict[tuple[str, str | None], str] = {}
    samples: dict[str, LoggedSample] = {}
    scores: dict[str, dict[tuple[str, str | None], float | None]] = {}  # by metric and filter
    tool = LM_EVAL
    for place, shape, raw in _rows(path):
        key = (str(shape.doc_id), shape.filter)
        if key in lines:
            raise UserError(f"{path} {place} repeats the document {key[0]} of {lines[key]}; keep one of them")
        if not lines and "doc" not in raw and ("input" in raw or "token_counts" in raw):
            tool = LMMS_EVAL
        lines[key] = place
        found = list(_scores(shape, raw))
        if key[0] not in samples:
            samples[key[0]] = _sample(place, shape, scored=any(value is not None for _, value in found))
        scores.setdefault(key[0], {}).update({(name, shape.filter): value for name, value in found})
    several = len({filter for _, filter in lines}) > 1
    for identity, sample in samples.items():
        sample.scores = {f"{name},{filter}" if several else name: value for (name, filter), value in scores[identity].items()}
    named = next((match["task"] for name in _NAMES if (match := name.fullmatch(path.stem))), None)
    return HarnessLog(
        tool, named, path.resolve().parent.name if named else None, once(iter(samples.values()), path)
    )  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[str, SampleShape, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in read_lines(file, path):
            if not line.strip():
                continue
            place = f"{path} line {number}"
            try:
                value = parse_json(line, place, nan_is_null=True)
            except ValueError as error:
                raise UserError(f"{place} is not whole JSON ({error}); the log may be truncated, make it again") from None
            yield f"line {number}", check_shape(value, SampleShape, place), value


def _sample(place: str, shape: SampleShape, *, scored: bool) -> LoggedSample:
    document = "" if shape.doc is None else sha256_json(_without_addresses(shape.doc))[:16]
    text = _first_text(shape.resps) if scored and shape.resps is not UNSET else None
    text = text or _choice(shape) or _first_text(shape.filtered_resps)
    return LoggedSample(str(shape.doc_id), place, _text(shape.target), text, document)


def _scores(shape: SampleShape, raw: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """(name, value) of every metric; of one that is an object, its `score`, as lmms-eval's own baselines read it."""
    names = [name for name in raw if name not in _NO_SCORES] if shape.metrics is UNSET else shape.metrics
    for name in names:
        value = raw.get(name)
        if isinstance(value, dict):
            value = value.get("score")
        yield name, None if isinstance(value, str) else as_number(value)


def _text(target: Any) -> str:
    if isinstance(target, list):
        return _text(target[0]) if target else ""
    return "" if target is None else str(target)


def _first_text(responses: Responses | UnsetType) -> str | None:
    """The first text of responses in any number of lists; None of choices, which are pairs of log-probability and whether
    the choice is the likeliest text."""
    if isinstance(responses, list):
        return _first_text(responses[0]) if responses and _log_probability(responses) is None else None
    return responses if isinstance(responses, str) else None


def _log_probability(pair: Any) -> float | None:
    """The log-probability of a choice; None where it is none."""
    if not isinstance(pair, list) or len(pair) != 2 or str(pair[1]) not in ("True", "False"):
        return None
    try:
        return float(pair[0])
    except (TypeError, ValueError):
        return None


def _choice(shape: SampleShape) -> str | None:
    """The likeliest of several choices, in words where the log has them."""
    if not isinstance(shape.filtered_resps, list) or len(shape.filtered_resps) < 2:
        return None
    known = [_log_probability(pair) for pair in shape.filtered_resps]
    if any(value is None for value in known):
        return None
    best = max(range(len(known)), key=lambda i: known[i] or 0.0)
    request = shape.arguments.get(f"gen_args_{best}") if isinstance(shape.arguments, dict) else None
    words = request.get("arg_1") if isinstance(request, dict) else None
    return words.strip() if isinstance(words, str) and words.strip() else f"choice {best + 1}"


def _without_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_addresses(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_addresses(item) for item in value]
    return _ADDRESS.sub("", value) if isinstance(value, str) else value
