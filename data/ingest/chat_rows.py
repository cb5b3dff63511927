"""One conversation of a chat file, in any of the usual forms, as turns and photos.

Read are `messages` (OpenAI, Qwen, Hugging Face), `conversations` (LLaVA), `contents` (Gemini), `texts` (Cauldron), `query` and
`response` with `history` (ms-swift), `question` and `answer` (mlx-vlm) or `answers` (DocVQA), `prompt` and `completion` (TRL),
`prefix` and `suffix` (PaliGemma), `prompt` and `chosen` (preferences). Photos are named inside `content`, by placeholders in
the text, or in a column of the row.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_phi3v.task import clean_text, is_missing
from mlx_phi3v.text import storable
from mlx_phi3v.turns import Turn

from .row import RowError
from .values import unpacked

_ANY_TABLES = ("contents", "texts")  # of conversations only where nothing else says what the rows are
MESSAGES = ("messages", "conversations", "conversation", *_ANY_TABLES)
PAIRS = (("query", "response"), ("question", "answer"), ("prompt", "completion"), ("prompt", "response"),
         ("instruction", "output"), ("instruction", "response"), ("prefix", "suffix"), ("question", "answers"),
         ("prompt", "chosen"), ("question", "chosen"), ("input", "output"))  # fmt: skip
PHOTOS = ("images", "image", "image_path", "image_url", "image_paths", "photo", "picture")
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "model": "assistant",
    "bot": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
_SHOWN = re.compile(
    r"<img>(?P<path>[^<]+)</img>|<image>|<\|image(?:_\d+)?\|>|<image_?\d+>|<ImageHere>|<start_of_image>"
    r"|(?:<\|vision_start\|>)?<\|image_pad\|>(?:<\|vision_end\|>)?"
)
_REFERENCES = ("image", "image_url", "input_image", "url", "path", "bytes", "file", "data", "base64", "source", "inlineData",
               "inline_data", "fileData", "file_data")  # fmt: skip
_NO_PHOTOS = ("video", "audio", "video_url", "input_audio", "tool_use", "tool_result", "tool_call")


class _Shown:
    """Stands for a photo that is in a column of the row."""


@dataclass
class _Message:
    """What a turn says, and the photos it shows: references or `_Shown`; `tags` those that only its text has."""

    role: str
    text: str
    photos: list[Any] = field(default_factory=list)
    tags: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Conversation:
    """Turns, each with its answer, and the photos that they show, in order; `further` photos are shown by no turn."""

    turns: tuple[Turn, ...]
    photos: list[Any]
    further: list[Any]


def read_conversation(row: Mapping[str, Any]) -> Conversation | RowError:
    """The conversation of a row, or why it is none."""
    messages = [_message(item) for item in _listed(row)]
    wrong = next((message for message in messages if isinstance(message, RowError)), None)
    if wrong is not None:
        return wrong
    turns, system = _paired([message for message in messages if isinstance(message, _Message)])
    if isinstance(turns, RowError):
        return turns
    own = _own_photos(row)
    if any(message.photos for message, _ in turns):
        shown = [message.photos for message, _ in turns]
    else:
        shown = [message.tags for message, _ in turns]
    if not any(shown):
        shown[0] = [_Shown()] * len(own)  # nothing says where: all of them belong to the first question
    rest = iter(own)
    photos = [[next(rest, None) if isinstance(item, _Shown) else item for item in items] for items in shown]
    if any(item is None for items in photos for item in items):
        return RowError("picture_missing_in_row", f"{sum(map(len, shown))} shown, {len(own)} in the row")
    asked = [_question(message.text) for message, _ in turns]
    asked[0] = _question(f"{system} {asked[0]}")  # Phi-3-Vision has no system turn: its text goes before the question
    found = zip(asked, photos, turns)
    return Conversation(
        tuple(Turn(question, len(items), answer) for question, items, (_, answer) in found),
        [item for items in photos for item in items],
        list(rest),
    )


def _listed(row: Mapping[str, Any]) -> list[Any]:
    """The messages of a row, whatever form it has."""
    for name in MESSAGES:
        if isinstance(found := unpacked(row.get(name)), list) and found:
            said = [message for item in found for message in _both_sides(item)]
            alone = any(isinstance(item, Mapping) and _role(item) == "system" for item in said)
            return said if alone else [*_system(row), *said]
    for asks, answers in PAIRS:
        asked, answered = row.get(asks), row.get(answers)
        if is_missing(asked) or is_missing(answered):
            continue
        if isinstance(asked, list) and isinstance(answered, list):
            return [*asked, *answered]
        listed = _system(row)
        for pair in row.get("history") or []:
            if isinstance(pair, (list, tuple)) and len(pair) == 2:
                listed += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        extra = row.get("input") if asks == "instruction" else None
        text = f"{asked} {extra}" if isinstance(asked, str) and isinstance(extra, str) else asked
        answered = _first_answer(_chosen(row, answered))
        return [*listed, {"role": "user", "content": text}, {"role": "assistant", "content": answered}]
    return [None]


def _system(row: Mapping[str, Any]) -> list[Any]:
    """What a column of the row says before all turns."""
    said = next((text for name in ("system", "systemInstruction", "system_instruction") if (text := row.get(name))), None)
    if isinstance(said, Mapping):
        said = said.get("parts", said.get("content"))
    return [{"role": "system", "content": said}] if isinstance(said, (str, list)) else []


def _role(item: Mapping[str, Any]) -> str | None:
    return _ROLES.get(str(item.get("role", item.get("from"))).casefold())


def _both_sides(item: Any) -> list[Any]:
    """The messages of one item of a list: itself, or the two of `{user: ..., assistant: ...}`."""
    if isinstance(item, Mapping) and "assistant" in item and "user" in item:
        return [{"role": role, "content": item[role]} for role in ("user", "assistant")]
    return [item]


def _chosen(row: Mapping[str, Any], answered: Any) -> Any:
    """An answer that is a place in a list of choices, from 0, as that choice."""
    listed = unpacked(next((row[name] for name in ("choices", "options") if not is_missing(row.get(name))), None))
    place = isinstance(answered, int) and not isinstance(answered, bool) and isinstance(listed, list)
    return listed[answered] if place and 0 <= answered < len(listed) else answered


def _first_answer(answered: Any) -> Any:
    """An answer as text; the first of several that were collected."""
    while isinstance(answered, (list, tuple)) and answered:
        answered = answered[0]
    if isinstance(answered, Mapping):
        answered = answered.get("answer", answered.get("text"))
    return str(answered) if isinstance(answered, (int, float)) else answered


def _message(item: Any) -> _Message | RowError:
    if not isinstance(item, Mapping):
        return RowError("chat_malformed")
    role = _role(item)
    content = item.get("content", item.get("value", item.get("parts")))
    if role is None:
        return RowError("chat_malformed", f"role {item.get('role', item.get('from'))}")
    found = _Message(role, "")
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, Mapping) or part.get("type") in _NO_PHOTOS:
            return RowError("chat_malformed", str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__)
        elif (reference := _reference(part)) is not None:
            found.photos.append(reference)
        elif isinstance(text := part.get("text", part.get("content")), str):
            texts.append(text)
    found.text = " ".join(texts)
    for match in _SHOWN.finditer(found.text):
        found.tags.append(match["path"].strip() if match["path"] else _Shown())
    return found


def _reference(part: Mapping[str, Any]) -> Any:
    """The photo that a part of a content shows: its reference, `_Shown` where a column has it, None where it is no photo."""
    kind = part.get("type")
    if kind is not None and "image" not in str(kind):
        return None
    for key in _REFERENCES:
        value = part.get(key)
        while isinstance(value, Mapping) and not value.get("bytes") and not value.get("path"):
            coded = value.get("data") or value.get("base64")
            value = (
                value.get("url")
                or value.get("fileUri")
                or value.get("file_uri")
                or (f"data:;base64,{coded}" if coded else None)
            )
        if is_missing(value) or value == {}:
            continue
        if key in ("data", "base64") and isinstance(value, str) and not value.startswith("data:"):
            return f"data:;base64,{value}"
        return value
    return _Shown() if kind is not None else None


def _paired(messages: Sequence[_Message]) -> tuple[list[tuple[_Message, str]] | RowError, str]:
    """(questions with their answers, the text of the system); messages of one side in a row are joined."""
    joined: list[_Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            last = joined[-1]
            last.text = f"{last.text} {message.text}"
            last.photos, last.tags = last.photos + message.photos, last.tags + message.tags
        else:
            joined.append(message)
    system = " ".join(message.text for message in joined if message.role == "system")
    rest = [message for message in joined if message.role != "system"]
    if not any(message.role == "assistant" for message in rest):
        return RowError("chat_no_answer" if rest else "chat_malformed"), ""
    if rest[0].role != "user" or any(a.role == b.role for a, b in itertools.pairwise(rest)):
        return RowError("chat_malformed", "no question before an answer"), ""
    pairs = [(asks, storable(answers.text).strip()) for asks, answers in zip(rest[::2], rest[1::2])]
    if any(not answer for _, answer in pairs):
        return RowError("chat_no_answer"), ""
    return pairs, system


def _question(text: str) -> str:
    return clean_text(storable(_SHOWN.sub(" ", text)))


def _own_photos(row: Mapping[str, Any]) -> list[Any]:
    """The photos in the row's own columns: the first one that has any."""
    for name in PHOTOS:
        value = row.get(name)
        if not is_missing(value) and value not in ([], {}):
            return [item for item in value if not is_missing(item)] if isinstance(value, list) else [value]
    return []


def is_conversation(columns: Iterable[str]) -> bool:
    """Whether a table of these columns holds conversations."""
    names = set(columns)
    if names & (set(MESSAGES) - set(_ANY_TABLES)):
        return True
    open_to_it = not names & {"title", "name", "category", "price"}
    told = "contents" in names or ("texts" in names and bool(names & set(PHOTOS)))
    return open_to_it and (told or any(asks in names and answers in names for asks, answers in PAIRS))
