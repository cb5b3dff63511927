"""The table of answers: what its columns hold, and what follows from them."""

from __future__ import annotations

import pytest

from mlx_phi3v.loggers.logger import AnsweredRow, Answers
from mlx_phi3v.loggers.tables import markdown
from mlx_phi3v.task import Field, Task
from mlx_phi3v.training.answered import cells_of, measures_of

TASK = Task()


def row(name: str, answer: str, truth: str, task: Task = TASK) -> AnsweredRow:
    return AnsweredRow(name, None, answer, truth, cells_of(task, task.parse(answer), task.parse(truth)))


TRUTH = "Product: Wool scarf, Category: SCARVES, Full Price: 200.0"


def test_answers_stand_beside_the_truth_with_price_error_and_category() -> None:
    cells = row("a", "Product: Wool shawl, Category: SCARVES, Full Price: 150.0", TRUTH).cells
    assert cells == {
        "title answer": "Wool shawl", "title true": "Wool scarf", "title right": False,
        "category3_code answer": "SCARVES", "category3_code true": "SCARVES", "category3_code right": True,
        "full_price answer": 150.0, "full_price true": 200.0, "full_price error": 50.0, "full_price error share": 0.25,
    }  # fmt: skip


def test_what_does_not_parse_is_wrong_and_has_no_error() -> None:
    cells = row("a", "Product: Wool scarf, Full Price: about 150", TRUTH).cells
    assert (cells["category3_code answer"], cells["category3_code right"]) == (None, False)
    assert (cells["full_price answer"], cells["full_price error"], cells["full_price error share"]) == (None, None, None)


def test_what_a_row_lacks_is_not_judged() -> None:
    cells = row("a", "Product: Wool scarf, Category: SCARVES, Full Price: 1.0", "Product: Wool scarf").cells
    assert cells["title right"] is True and cells["category3_code right"] is None and cells["full_price error"] is None
    free = row("a", "Full Price: 5.0", "Full Price: 0.0").cells
    assert free["full_price error"] == 5.0 and free["full_price error share"] is None


def test_measures_are_means_over_the_rows() -> None:
    rows = [
        row("a", TRUTH, TRUTH),
        row("b", "Product: Wool scarf, Category: HATS, Full Price: 150.0", TRUTH),
        row("c", "nothing", TRUTH),
    ]
    assert measures_of(TASK, rows) == pytest.approx(
        {
            "validation/title_accuracy": 2 / 3, "validation/category3_code_accuracy": 1 / 3,
            "validation/full_price_error": 25.0, "validation/full_price_error_share": 0.125, "validation/parsed": 6 / 9,
        }
    )  # fmt: skip
    assert measures_of(TASK, []) == {}


def test_fields_may_have_any_name() -> None:
    task = Task(
        (Field("answer", "text"), Field("answer true", "category"), Field("row", "number")),
        template="A: {answer}, T: {answer true}, R: {row}",
    )
    cells = row("a", "A: x, T: y, R: 1.0", "A: x, T: y, R: 1.0", task).cells
    assert len(cells) == 10 and cells["answer true"] == "x" and cells["answer true answer"] == "y"
    assert not {"row", "photo", "answer", "truth"} & set(cells)


def test_text_of_a_model_is_shown_as_text() -> None:
    """A cell does not end, and mark-up does not act: a catalogue and a model may hold any text."""
    shown = markdown(Answers(1, (row("a|b", "Product: <script>|x|</script> [l](http://x) \x1b[2J", "Product: x"),)))
    header, _, line = shown.split("\n")
    assert line.count("|") == header.count("|") and not set("<>[]\x1b") & set(line)
