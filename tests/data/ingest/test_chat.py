"""Chat files of every usual form: photos inside the content, several turns, several questions a photo."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ingest.chat_rows import Conversation, is_conversation, read_conversation
from data.ingest.ingest_config import IngestConfig
from data.ingest.pipeline import ingest
from data.ingest.row import RowError
from data.ingest.summary import summary
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.turns import TURNS, Turn
from tests.helpers.catalogue import random_picture

Q, A = "What is it?", "A hat"


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


SAID = {"role": "assistant", "content": A}
FORMS: dict[str, dict[str, Any]] = {
    "openai": {"messages": [user(text(Q), {"type": "image_url", "image_url": {"url": "a.png"}}), SAID]},
    "openai, the url alone": {"messages": [user({"type": "image_url", "image_url": "a.png"}, text(Q)), SAID]},
    "responses": {"messages": [user({"type": "input_image", "image_url": "a.png"}, {"type": "input_text", "text": Q}), SAID]},
    "qwen": {"messages": [user({"type": "image", "image": "a.png"}, text(Q)), {"role": "assistant", "content": [text(A)]}]},
    "qwen without types": {"messages": [user({"image": "a.png"}, {"text": Q}), SAID]},
    "qwen's first tags": {"messages": [{"role": "user", "content": f"Picture: <img>a.png</img>{Q}"}, SAID]},
    "hugging face": {"images": ["a.png"], "messages": [user({"type": "image", "text": None}, text(Q)), SAID]},
    "a placeholder": {"images": ["a.png"], "messages": [{"role": "user", "content": f"<image>{Q}"}, SAID]},
    "no placeholder": {"image": "a.png", "messages": [{"role": "user", "content": Q}, SAID]},
    "anthropic": {"messages": [user({"type": "image", "source": {"type": "url", "url": "a.png"}}, text(Q)), SAID]},
    "llava": {"image": "a.png", "conversations": [{"from": "human", "value": f"{Q}\n<image>"}, {"from": "gpt", "value": A}]},
    "ms-swift": {"query": f"<image>{Q}", "response": A, "history": [], "images": ["a.png"]},
    "mlx-vlm": {"image": "a.png", "question": Q, "answer": A},
    "trl": {"images": ["a.png"], "prompt": [user({"type": "image"}, text(Q))], "completion": [SAID]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": Q}, {"fileData": {"fileUri": "a.png"}}]},
                            {"role": "model", "parts": [{"text": A}]}]},
    "cauldron": {"images": ["a.png"], "texts": [{"user": Q, "assistant": A, "source": "x"}]},
    "docvqa": {"image": "a.png", "question": Q, "answers": [A, "another"]},
    "vqa": {"image": "a.png", "question": Q, "answers": [{"answer": A, "answer_confidence": "yes"}]},
    "roles in capitals": {"image": "a.png", "conversations": [{"from": "USER", "value": Q}, {"from": "Assistant", "value": A}]},
    "preferences": {"images": ["a.png"], "prompt": Q, "chosen": A, "rejected": "another"},
    "preferences as messages": {"images": ["a.png"], "prompt": [user(text(Q))], "chosen": [SAID], "rejected": [SAID]},
    "a place among choices": {"image": "a.png", "question": Q, "choices": ["another", A], "answer": 1},
    "input and output": {"image": "a.png", "input": Q, "output": A},
    "paligemma": {"image": "a.png", "prefix": Q, "suffix": A},
    "text of json": {"image": "a.png", "messages": json.dumps([{"role": "user", "content": Q}, SAID])},
}  # fmt: skip


@pytest.mark.parametrize(
    "said", ['{"title": "A cup", "price": 9.5}', "['red', 'blue']", "None", "N/A", "<b>bold</b> & more", "1,5"]
)
def test_an_answer_of_a_conversation_is_learned_as_it_is(said: str, tmp_path: Path) -> None:
    random_picture(32, 32, 0).save(tmp_path / "a.png")
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "a.png", "question": "What?", "answer": said}))
    ingest(IngestConfig(str(tmp_path / "c.jsonl"), tmp_path / "out", processes=1, validation=0.0))
    catalogue = Catalogue(tmp_path / "out")
    assert [catalogue.task.answer(row) for row in catalogue.split("train")] == [said]


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a photo").mkdir()
    random_picture(32, 32, 0).save(tmp_path / "a photo" / "a.png")
    row = {"image": (tmp_path / "a photo" / "a.png").as_uri(), "question": "What?", "answer": "A cup"}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    info = ingest(IngestConfig(str(tmp_path / "c.jsonl"), tmp_path / "out", processes=1, validation=0.0))
    assert (info["counts"]["kept"], info["counts"]["pictures"]) == (1, 1)


def test_what_the_system_says_in_a_column_comes_before_the_question() -> None:
    told = {
        "images": ["a.png"],
        "conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cup"}],
    }
    for row in (told | {"system": "Be brief."}, told | {"systemInstruction": {"parts": [{"text": "Be brief."}]}}):
        found = read_conversation(row)
        assert not isinstance(found, RowError) and found.turns[0].question == "Be brief. What?"


@pytest.mark.parametrize("column", ["contents", "texts"])
def test_a_shop_may_have_a_column_named_like_a_form_of_chat(column: str) -> None:
    assert not is_conversation([column, "title", "price", "image"])


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_question_answer_and_photo(form: str) -> None:
    question = f"Picture: {Q}" if form == "qwen's first tags" else Q
    assert read_conversation(FORMS[form]) == Conversation((Turn(question, 1, A),), ["a.png"], [])


def test_photos_belong_to_the_turns_that_show_them() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image><image>Which?"},
        {"role": "assistant", "content": "One"},
        {"role": "user", "content": "And <image>?"},
        {"role": "assistant", "content": "Two"},
    ]
    found = read_conversation({"messages": turns, "images": ["a", "b", "c", "d"]})
    assert found == Conversation((Turn("Be brief. Which?", 2, "One"), Turn("And ?", 1, "Two")), ["a", "b", "c"], ["d"])
    assert read_conversation({"messages": turns, "images": ["a"]}) == "picture_missing_in_row"
    pairs = {"query": "And?", "response": "Two", "history": [["Which?", "One"]], "images": ["a"]}
    assert read_conversation(pairs) == Conversation((Turn("Which?", 1, "One"), Turn("And?", 0, "Two")), ["a"], [])


def test_base64_is_a_photo_with_and_without_its_head() -> None:
    for source in ({"type": "base64", "media_type": "image/png", "data": "QUJD"}, {"base64": "QUJD"}):
        found = read_conversation({"messages": [user({"type": "image", "source": source}, text(Q)), SAID]})
        assert isinstance(found, Conversation) and found.photos == ["data:;base64,QUJD"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "chat_malformed"),
        ({"messages": [SAID]}, "chat_malformed"),
        ({"messages": [{"role": "user", "content": Q}]}, "chat_no_answer"),
        ({"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": " "}]}, "chat_no_answer"),
        ({"messages": [{"role": "tool", "content": "x"}, SAID]}, "chat_malformed"),
        ({"messages": [user({"type": "video", "video": "a.mp4"}), SAID]}, "chat_malformed"),
        ({"messages": [7]}, "chat_malformed"),
        ({}, "chat_malformed"),
    ],
)
def test_what_is_no_conversation_has_a_reason(row: dict[str, Any], reason: str) -> None:
    found = read_conversation(row)
    assert isinstance(found, RowError) and found == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["user", "assistant", "image", "text", "<image>", "a.png"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "image", "image_url", "url", "from"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "conversations", "images", "query", "response", "history"]), JSON))
def test_any_row_is_a_conversation_or_has_a_reason(row: dict[str, Any]) -> None:
    with contextlib.suppress(TypeError, AttributeError, ValueError):  # of these ChatTable makes `row_unreadable`
        assert isinstance(read_conversation(row), (Conversation, RowError))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate("abcd"):
        random_picture(60, 40, k).save(tmp_path / f"{name}.png")
    return tmp_path


def take(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ingest(IngestConfig(str(folder / "s.jsonl"), folder / "out", **({"processes": 1, "validation": 0} | settings)))


def turn(question: str, answer: str, image: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "images": [image]}


def test_rows_keep_their_own_questions_and_turns_unless_a_prompt_is_given(folder: Path) -> None:
    several = turn("Name?", "Boots", "c.png")
    several["messages"] += [{"role": "user", "content": "Price?"}, {"role": "assistant", "content": "35"}]
    both = turn("<image><image>What is it?", "Two hats", "a.png") | {"images": ["a.png", "d.png"]}
    rows = [turn(Q, A, "a.png"), turn("Describe it.", "A tie", "b.png"), several, both]
    info = take(folder, rows)
    found = Catalogue(folder / "out").split("train")
    assert [row["answer"] for row in found] == [A, "A tie", "35", "Two hats"]
    assert [[(t["question"], t["images"], t["answer"]) for t in row[TURNS] or []] for row in found] == [
        [],
        [("Describe it.", 1, None)],
        [("Name?", 1, "Boots"), ("Price?", 0, None)],
        [(Q, 2, None)],
    ]
    shown = summary(info, folder / "out")
    assert "other_question (1)" in shown and "give --prompt to train all rows on one question" in shown
    assert "several_turns (1)" in shown
    (folder / "given").mkdir()
    for name in "abcd":
        (folder / f"{name}.png").rename(folder / "given" / f"{name}.png")
    take(folder / "given", rows[:2], prompt="What is this?")
    catalogue = Catalogue(folder / "given" / "out")
    assert TURNS not in catalogue.split("train").columns and "What is this?" in catalogue.task.prompt


def test_a_photo_inside_the_content_is_stored(folder: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode((folder / "a.png").read_bytes()).decode()
    info = take(folder, [{"messages": [user(text(Q), {"type": "image_url", "image_url": {"url": url}}), SAID]}])
    assert info["counts"]["kept"] == info["counts"]["pictures"] == 1


def test_fields_of_answers_need_a_template(folder: Path) -> None:
    with pytest.raises(UserError, match="have no column 'title'; give --template"):
        take(folder, [turn(Q, "Title: Hat", "a.png")], field=("title=title",))
