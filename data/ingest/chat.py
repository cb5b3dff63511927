"""Chat-style rows as plain columns: the last answer or its fields, the photos, and the turns that are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task
from mlx_phi3v.turns import TURNS, Turn, stored

from .chat_rows import MESSAGES, PAIRS, PHOTOS, is_conversation, read_conversation
from .notes import Note
from .row import Row, RowError
from .tables import Table


def is_chat(table: Table) -> bool:
    """Whether the rows of a table are conversations."""
    return is_conversation(table.columns)


class ChatTable:
    """A chat table as the columns `question`, `answer`, `images`, `_turns` (hidden) and all other columns it has.

    With a `task` its template parses the answer into fields; a row whose answer does not fit is a RowError.
    """

    kind = "chat"

    def __init__(self, table: Table, task: Task | None) -> None:
        self.table = table
        self.task = task
        self.count = table.count
        pair = next((pair for pair in PAIRS if set(pair) <= set(table.columns)), ())
        self.taken = frozenset((*MESSAGES, *PHOTOS, *pair, *(("history", "system") if pair else ())))
        self.columns = {"question": pa.string(), "answer": pa.string(), "images": pa.list_(pa.string())}
        self.columns |= {field.name: pa.string() for field in task.fields} if task else {}
        self.columns |= {n: kind for n, kind in table.columns.items() if n not in self.taken and n not in self.columns}

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each conversation that has a question and an answer; any other is a RowError."""
        for number, row in self.table.rows():
            yield number, row if isinstance(row, RowError) else self._safely_flatten(row)

    def first_turn(self) -> Turn:
        """The first turn of the first usable row. Raises UserError where no row has one."""
        for _, row in self.rows():
            if not isinstance(row, RowError):
                first: Turn = row[TURNS][0]
                return first
        raise UserError("no row of the chat file holds a question and an answer; see docs/data.md for the forms that are read")

    def _safely_flatten(self, row: Mapping[str, Any]) -> Row:
        try:
            return self._flatten(row)
        except MemoryError:
            raise
        except Exception as error:  # one conversation, of whatever form, ends nothing
            return RowError("row_unreadable", f"{type(error).__name__}: {error}")

    def _flatten(self, row: Mapping[str, Any]) -> Row:
        found = read_conversation(row)
        if isinstance(found, RowError):
            return found
        answer = found.turns[-1].answer or ""
        values = {key: value for key, value in row.items() if key not in self.taken}
        values |= {"question": found.turns[0].question, "answer": answer, "images": [*found.photos, *found.further]}
        values[TURNS] = found.turns
        if self.task:
            if len(found.turns) > 1:
                return RowError("chat_several_turns", "fields are read out of one answer")
            parsed = self.task.parse(answer)
            if any(field.status not in ("ok", "missing") for field in parsed.values()):
                return RowError("answer_does_not_fit_the_template", answer)
            values |= {name: field.value for name, field in parsed.items()}
        return values


@dataclass(frozen=True)
class ChatPrompt:
    """What the task asks of chat rows: its question and how many photos it shows. `given`: the user wants no other one."""

    question: str
    images: int
    given: bool


def own_turns(turns: tuple[Turn, ...], asked: ChatPrompt, notes: list[Note]) -> list[dict[str, Any]] | None:
    """The turns of a row as its catalogue holds them; None where the task's prompt asks what the row does.

    The last answer is left to the task, which writes it out of the row's fields.
    """
    if len(turns) > 1:
        notes.append(Note("", "question", "several_turns"))
        return stored([*turns[:-1], replace(turns[-1], answer=None)])
    (turn,) = turns
    if asked.given:
        if "<|user|>" in asked.question:  # a whole prompt: it says itself what it shows
            return None
        turn = replace(turn, question=asked.question)
    if turn.question != asked.question:
        notes.append(Note("", "question", "other_question"))
    elif turn.images == asked.images:
        return None
    else:
        notes.append(Note("", "question", "other_photos"))
    return stored([replace(turn, answer=None)])
