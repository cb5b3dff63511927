"""Rows that are conversations: a question of their own, several questions, or photos in a later turn.

A catalogue holds them in the column `_turns`. A row without it has one turn: the task's prompt and the task's answer. The
last answer of a conversation is always the task's, so the fields of the row stay what is scored; the answers before it are
text. Each answer is trained, nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .task import END, Task, clean_text, defused, image_tags

TURNS = "_turns"


@dataclass(frozen=True)
class Turn:
    """A question, how many of the row's photos it shows, and its answer; None in the last turn, where the task writes it."""

    question: str
    images: int
    answer: str | None = None


def turns_of(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row, none where the task's prompt is asked."""
    return tuple(Turn(turn["question"] or "", turn["images"] or 0, turn["answer"]) for turn in row.get(TURNS) or ())


def stored(turns: Sequence[Turn]) -> list[dict[str, Any]] | None:
    """The turns as the column holds them."""
    return [asdict(turn) for turn in turns] or None


def row_exchanges(task: Task, row: Mapping[str, Any], images: int) -> list[tuple[str, str]]:
    """(prompt, answer) of each turn of a row with so many photos; a prompt begins where the answer before it ended.

    A row without turns of its own has one: the task's prompt and answer. Photos are numbered through the conversation, their
    tags stand before the question that shows them. The white space is that of the published training example. Special
    tokens in questions and answers are defused.
    """
    turns = turns_of(row)
    if not turns:
        return [(task_prompt(task, images), task.answer(row))]
    found, shown = [], 0
    for turn in turns:
        tags = "\n".join(f"<|image_{k}|>" for k in range(shown + 1, shown + turn.images + 1))
        shown += turn.images
        answer = task.answer(row) if turn.answer is None else clean_text(turn.answer)
        found.append((f"<|user|>\n{tags}{defused(turn.question)}{END}<|assistant|>\n", answer))
    return found


def task_prompt(task: Task, images: int) -> str:
    """The task's prompt for a row with that many photos: the tag is repeated, or left out where there is none."""
    tag = "<|image_1|>"
    if images == 0:
        return task.prompt.replace(tag + "\n", "").replace(tag, "")
    if images > 1 and tag in task.prompt and "<|image_2|>" not in task.prompt:
        return task.prompt.replace(tag, image_tags(images))
    return task.prompt
