"""Chat-style rows (`messages` and `images`, or LLaVA's `conversations` and `image`) as plain columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task, clean_text
from mlx_phi3v.text import storable

from .row import Row, RowError
from .tables import Table

_TURNS = ("messages", "conversations")
_PHOTO_COLUMNS = ("images", "image")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PLACEHOLDER = re.compile(r"<image>|<\|image_\d+\|>")


def is_chat(table: Table) -> bool:
    """Whether the rows of a table are conversations."""
    return any(name in table.columns for name in _TURNS)


class ChatTable:
    """A chat table as the columns `question`, `answer`, `images` and all other columns it has.

    With a `task` its template parses the answer into fields; a row whose answer does not fit is a RowError.
    """

    kind = "chat"

    def __init__(self, table: Table, task: Task | None) -> None:
        self.table = table
        self.task = task
        self.count = table.count
        taken = (*_TURNS, *_PHOTO_COLUMNS)
        self.columns = {"question": pa.string(), "answer": pa.string(), "images": pa.list_(pa.string())}
        self.columns |= {field.name: pa.string() for field in task.fields} if task else {}
        self.columns |= {n: kind for n, kind in table.columns.items() if n not in taken and n not in self.columns}

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each conversation of one question and one answer; any other is a RowError."""
        for number, row in self.table.rows():
            yield number, row if isinstance(row, RowError) else self._safely_flatten(row)

    def first_question(self) -> str:
        """The question of the first usable row. Raises UserError where no row has one."""
        for _, row in self.rows():
            if not isinstance(row, RowError):
                return str(row["question"])
        raise UserError("no row of the chat file holds one question and one answer; see docs/data.md for the two forms")

    def _safely_flatten(self, row: Mapping[str, Any]) -> Row:
        try:
            return self._flatten(row)
        except MemoryError:
            raise
        except Exception as error:  # one conversation, of whatever form, ends nothing
            return RowError("row_unreadable", f"{type(error).__name__}: {error}")

    def _flatten(self, row: Mapping[str, Any]) -> Row:
        turns = [_turn(turn) for turn in next((row[name] for name in _TURNS if isinstance(row.get(name), list)), [])]
        if not turns or any(turn is None for turn in turns):
            return RowError("chat_malformed")
        roles = [turn[0] for turn in turns if turn]
        texts = [turn[1] for turn in turns if turn]
        if roles[0] == "system":  # Phi-3-Vision has no system turn: its text goes before the question
            roles, texts = roles[1:], [f"{texts[0]} {texts[1] if len(texts) > 1 else ''}", *texts[2:]]
        if roles != ["user", "assistant"]:
            return RowError("chat_no_answer" if roles.count("assistant") == 0 else "chat_several_turns")
        question = clean_text(storable(_PLACEHOLDER.sub(" ", texts[0])))
        photos: Any = next((row[name] for name in _PHOTO_COLUMNS if row.get(name)), [])
        values = {key: value for key, value in row.items() if key not in (*_TURNS, *_PHOTO_COLUMNS)}
        values |= {"question": question, "answer": texts[1].strip()}
        values["images"] = photos if isinstance(photos, list) else [photos]
        if self.task:
            parsed = self.task.parse(texts[1])
            if any(field.status not in ("ok", "missing") for field in parsed.values()):
                return RowError("answer_does_not_fit_the_template")
            values |= {name: field.value for name, field in parsed.items()}
        return values


def _turn(turn: Any) -> tuple[str, str] | None:
    if not isinstance(turn, Mapping):
        return None
    role = _ROLES.get(str(turn.get("role", turn.get("from"))))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # items: {"type": "text", "text": ...} and {"type": "image"}
        texts = [item.get("text") or item.get("content") or "" for item in content if isinstance(item, Mapping)]
        content = " ".join(text for text in texts if isinstance(text, str))
    return (role, content) if role and isinstance(content, str) else None
