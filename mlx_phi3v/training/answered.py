"""Answers to some validation rows while a model is trained, beside the true ones: what the loggers show as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..batches import Example
from ..decoding import answer_text, generate
from ..loggers.logger import AnsweredRow, Answers, Cell
from ..loggers.pictures import side_by_side
from ..task import NUMBERS, Field, ParsedField, Task
from ..turns import row_exchanges
from .setup import Setup

MOST_TOKENS = 128  # of an answer, as mlx_phi3v.generate has it


def answer_rows(setup: Setup, step: int, most: int) -> Answers:
    """Answer the first `most` of the validation rows greedily; at most as many at once as a pass of the training has.

    Takes no random number and changes no weight. Raises UserError as `decoding.generate`.
    """
    numbers, size = list(setup.validation_rows[:most]), setup.passes.rows
    rows = [row for start in range(0, len(numbers), size) for row in _answer(setup, numbers[start : start + size])]
    return Answers(step, tuple(rows), measures_of(setup.task.task, rows))


def _answer(setup: Setup, numbers: Sequence[int]) -> list[AnsweredRow]:
    """The answers to these rows, of one batch."""
    loader = setup.validation
    assert loader is not None
    maker, task = loader.maker, setup.task.task
    rows = [loader.split[number] for number in numbers]
    examples, pictures = zip(*(_prompt(setup, number) for number in numbers))
    truths = [row_exchanges(task, row, len(row["images"]))[-1][1] for row in rows]
    # One that takes twice the tokens of the longest true answer is wrong; a model that never ends is not waited for.
    longest = max(len(maker.prompts.tokenize(truth, [])) for truth in truths)
    answers = generate(
        setup.backend,
        loader.cache.fill(list(examples)) if loader.cache else examples,
        max_new_tokens=min(MOST_TOKENS, 2 * longest + 8),
        stop_ids=maker.prompts.stop_ids,
    )
    found = []
    for row, picture, truth, answer in zip(rows, pictures, truths, answers):
        text = answer_text(answer, maker.prompts)
        cells = cells_of(task, task.parse(text, truncated=answer.finish != "end"), task.parse(truth))
        found.append(AnsweredRow(row["id"], picture, text, truth, cells))
    return found


def _prompt(setup: Setup, number: int) -> tuple[Example, np.ndarray | None]:
    """A row without its answer, and its photos as one small picture."""
    assert setup.validation is not None
    example, photos = setup.validation.maker.of_split(setup.validation.split, number, with_answer=False)
    return example, side_by_side([np.asarray(photo.rgb) for photo in photos])


def cells_of(task: Task, answer: Mapping[str, ParsedField], truth: Mapping[str, ParsedField]) -> dict[str, Cell]:
    """The columns of one row: each field as answered and as it is, and how far or whether the two agree."""
    cells: dict[str, Cell] = {}
    for item in task.fields:
        said, true = answer[item.name].value, truth[item.name].value
        cells |= {f"{item.name} answer": said, f"{item.name} true": true}
        if item.kind in NUMBERS:
            error = abs(said - true) if isinstance(said, float) and isinstance(true, float) else None
            share = error / abs(true) if error is not None and isinstance(true, float) and true else None
            cells |= {f"{item.name} error": error, f"{item.name} error share": share}
        else:
            cells[f"{item.name} right"] = None if true is None else said == true
    return cells


def measures_of(task: Task, rows: Sequence[AnsweredRow]) -> dict[str, float]:
    """Figures over the rows: accuracy of texts and categories, mean absolute error of numbers, share of fields parsed."""
    measures: dict[str, float] = {}
    for item in task.fields:
        measures |= _measures_of_field(item, rows)
    due = [
        row.cells[f"{item.name} answer"] for item in task.fields for row in rows if row.cells[f"{item.name} true"] is not None
    ]
    if due:
        measures["validation/parsed"] = float(np.mean([value is not None for value in due]))
    return measures


def _measures_of_field(item: Field, rows: Sequence[AnsweredRow]) -> dict[str, float]:
    columns = {"error": "error", "error_share": "error share"} if item.kind in NUMBERS else {"accuracy": "right"}
    found = {}
    for measure, column in columns.items():
        values = [float(value) for row in rows if isinstance(value := row.cells[f"{item.name} {column}"], (bool, float))]
        if values:
            found[f"validation/{item.name}_{measure}"] = float(np.mean(values))
    return found
