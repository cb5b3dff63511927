"""What training writes as an answer, scoring reads back; what it cannot read is a failure, never a guess."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, Task, clean_text

LABELS = ("Product", "Category", "Full Price")
words = st.text(min_size=1, max_size=30).filter(lambda text: clean_text(text) and not any(label in text for label in LABELS))
rows = st.fixed_dictionaries(
    {},
    optional={
        "title": words,
        "category3_code": words,
        "full_price": st.floats(0.01, 1e9, allow_nan=False).map(lambda value: round(value, 2)),
    },
)


@given(row=rows)
def test_an_answer_reads_back_as_its_row(row: dict[str, Any]) -> None:
    task = Task()
    parsed = task.parse(task.answer(row) + "<|end|>")
    for item in task.fields:
        if item.name not in row:
            assert parsed[item.name].status == "missing" and parsed[item.name].value is None
        elif item.kind == "number":
            assert (parsed[item.name].status, parsed[item.name].value) == ("ok", row[item.name])
        else:
            assert (parsed[item.name].status, parsed[item.name].value) == ("ok", clean_text(row[item.name]))


@given(text=st.text(max_size=80), truncated=st.booleans())
def test_any_text_parses_without_an_exception(text: str, truncated: bool) -> None:
    for field in Task().parse(text, truncated=truncated).values():
        assert (field.value is None) == (field.status != "ok")


def test_the_published_answer_is_written_exactly() -> None:
    row = {"title": "Check Cotton Scarf", "category3_code": "SCARVES", "full_price": 450.0}
    assert Task().answer(row) == "Product: Check Cotton Scarf, Category: SCARVES, Full Price: 450.0"
    assert Task().answer(row | {"title": None}) == "Category: SCARVES, Full Price: 450.0"
    assert Task().answer(row | {"full_price": float("nan")}) == "Product: Check Cotton Scarf, Category: SCARVES"


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("Product: a, Category: b, Full Price: 12.5", ("ok", "ok", "ok")),
        ("Product: a, Category: b, Full Price: about 12", ("ok", "ok", "malformed")),
        ("Product: a, Category: b, Full Price: 12.5.1", ("ok", "ok", "malformed")),
        ("Product: a, Category: b, Full Price: -3", ("ok", "ok", "malformed")),
        ("Product: a, Category: b, Full Price: nan", ("ok", "ok", "malformed")),
        ("Product: a, Category: b, Full Price: 1 Full Price: 2", ("ok", "ok", "duplicate")),
        ("Product: a, Category: , Full Price: 1", ("ok", "malformed", "ok")),
        ("Full Price: 1,200.00", ("missing", "missing", "ok")),
        ("A scarf for 30 dollars.", ("missing", "missing", "missing")),
        ("", ("missing", "missing", "missing")),
    ],
)
def test_what_does_not_read_is_a_failure(text: str, statuses: tuple[str, ...]) -> None:
    assert tuple(field.status for field in Task().parse(text).values()) == statuses


def test_the_last_field_of_a_cut_answer_is_not_believed() -> None:
    parsed = Task().parse("Product: a, Category: SCAR", truncated=True)
    assert (parsed["title"].status, parsed["category3_code"].status) == ("ok", "truncated")
    assert Task().parse("Product: a, Category: SCAR")["category3_code"].value == "SCAR"


def test_text_after_the_end_token_is_not_read() -> None:
    assert Task().parse("Product: a<|end|>, Category: b")["category3_code"].status == "missing"


def test_a_task_survives_its_json_form() -> None:
    task = Task(
        (Field("name", "text"), Field("kind", "category"), Field("cost", "number", "EUR")),
        prompt="<|user|>\nWhat?<|end|>\n<|assistant|>\n",
        template="{name} | Kind: {kind} | Cost: {cost}",
    )
    assert Task.from_dict(task.to_dict()) == task
    row = {"name": "Bag", "kind": "BAGS", "cost": 3}
    assert {name: field.value for name, field in task.parse(task.answer(row)).items()} == row


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Product: {title}", "name each field once"),
        ("{title}{category3_code}, P: {full_price}", "no label between them"),
        ("A: {title}, A: {category3_code}, P: {full_price}", "same label"),
        ("A: {title}, B: {category3_code}, P: {full_price} USD", "ends in text"),
        ("A: {title}<|end|>, B: {category3_code}, P: {full_price}", r"the special token <\|end\|>, which acts"),
        ("A: {title}, <|image_1|>: {category3_code}, P: {full_price}", r"the special token <\|image_1\|>, which acts"),
        ("A: {title}, </s>: {category3_code}, P: {full_price}", "the special token </s>, which acts"),
    ],
)
def test_an_ambiguous_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Task(template=template)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"promt": "x"}, "promt"),
        ({"fields": [{"name": "a", "kind": "price"}]}, "price"),
        ({"fields": [{"name": "a", "kind": "text", "unit": "m"}]}, "unit"),
    ],
)
def test_an_unknown_key_or_kind_is_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Task.from_dict(value)
