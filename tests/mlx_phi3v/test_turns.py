"""Conversations: each answer is trained and nothing else, at any number of turns, and one turn is what it always was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.writer import CatalogueWriter
from mlx_phi3v.batches import ExampleMaker
from mlx_phi3v.catalogue import FORMAT, FORMAT_WITH_TURNS, Catalogue
from mlx_phi3v.catalogue_checks import TURNS_TYPE
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.task import END, Field, Task
from mlx_phi3v.training.row_lengths import measure_rows
from mlx_phi3v.turns import TURNS, Turn, row_exchanges, stored
from tests.helpers.catalogue import random_picture

TASK = Task((Field("answer", "text"),), template="{answer}")
TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>\0"), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def prompts(checkpoint: Path) -> PromptProcessor:
    return PromptProcessor(checkpoint)


@pytest.fixture(scope="module")
def maker(checkpoint: Path, prompts: PromptProcessor) -> ExampleMaker:
    return ExampleMaker(prompts, load_model_config(checkpoint), TASK, num_crops=1)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("turns")
    for k in range(2):
        random_picture(60, 40, k).save(folder / f"{k}.png")
    turns: list[list[Turn]] = [
        [],
        [Turn("Other?", 1)],
        [Turn("What?", 1, "A hat"), Turn("Price?", 0, "5"), Turn("And this?", 1)],
        [Turn("Both?", 2)],
    ]
    with CatalogueWriter(folder / "c", TASK, name="c", source={}, settings={}, extra={TURNS: TURNS_TYPE}) as writer:
        images = [writer.add_image((folder / f"{k}.png").read_bytes(), ".png") for k in range(2)]
        for i, own in enumerate(turns):
            shown = images[: sum(turn.images for turn in own) or 1]
            writer.add("train", {"id": str(i), "images": shown, "answer": f"It is {i}", TURNS: stored(own)})
    return Catalogue(folder / "c")


def trained(prompts: PromptProcessor, ids: np.ndarray, labels: np.ndarray) -> list[str]:
    """The texts of the runs of tokens that have a label."""
    learnt = labels != IGNORE
    assert (ids[learnt] == labels[learnt]).all()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], learnt, [False]]).astype(int)))
    return [prompts.tokenizer.decode(ids[a:b].tolist(), skip_special_tokens=False) for a, b in zip(edges[::2], edges[1::2])]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_every_answer_with_its_end_is_trained_and_nothing_else(prompts: PromptProcessor, said: list[tuple[str, str]]) -> None:
    turns = [Turn(" ".join(question.split()), 0, answer) for question, answer in said]
    exchanges = row_exchanges(TASK, {TURNS: stored(turns)}, 0)
    ids, labels = prompts.conversation(exchanges, [])
    alone = [prompts.example(prompt, answer, []) for prompt, answer in exchanges]
    # A conversation is its turns one after another: the same tokens, but for the one BOS of each text.
    bos = ids[:1].tolist() if ids[0] == alone[0][0][0] == prompts.tokenizer.encode("").ids[:1] else []
    parts = [one[len(bos) if i else 0 :] for i, (one, _) in enumerate(alone)]
    assert labels[labels != IGNORE].tolist() == [token for _, one in alone for token in one[one != IGNORE].tolist()]
    assert len(ids) == sum(map(len, parts))
    assert prompts.tokenizer.token_to_id(END) == labels[-1]


def test_one_turn_is_an_example(prompts: PromptProcessor) -> None:
    for given_, expected in zip(
        prompts.conversation([(TASK.prompt, "A hat")], [7]), prompts.example(TASK.prompt, "A hat", [7])
    ):
        assert np.array_equal(given_, expected)


def test_a_row_asks_its_own_questions_about_its_own_photos(catalogue: Catalogue, maker: ExampleMaker) -> None:
    rows = list(catalogue.split("train"))
    expected = [["It is 0"], ["It is 1"], ["A hat", "5", "It is 2"], ["It is 3"]]
    for row, answers in zip(rows, expected):
        example = maker(row, with_answer=True)
        found = trained(maker.prompts, example.input_ids, example.labels)
        assert [text.removesuffix(END).strip() for text in found] == answers and all(text.endswith(END) for text in found)
        photos = [k for k in (1, 2) if (example.input_ids == -k).any()]
        assert photos == list(range(1, len(row["images"]) + 1))
        asked = maker(row, with_answer=False)
        assert example.input_ids[: len(asked.input_ids)].tolist() == asked.input_ids.tolist()
        assert (asked.labels == IGNORE).all()
    prompt = "".join(prompt for prompt, _ in row_exchanges(TASK, rows[2], 2))
    assert "<|image_1|>What?" in prompt and "<|image_2|>And this?" in prompt
    assert rows[3][TURNS][0]["images"] == 2


def test_measured_lengths_are_those_of_the_examples(catalogue: Catalogue, maker: ExampleMaker) -> None:
    split = catalogue.split("train")
    lengths = measure_rows(split, maker).lengths(1, maker.config.vision)
    examples = [maker(row, with_answer=True) for row in split]
    assert lengths.tokens.tolist() == [len(example.input_ids) for example in examples]
    assert lengths.labels.tolist() == [int((example.labels != IGNORE).sum()) for example in examples]
    assert [maker.length(row) for row in split] == lengths.tokens.tolist()


def test_only_a_catalogue_with_turns_has_the_format_that_earlier_versions_refuse(catalogue: Catalogue, tmp_path: Path) -> None:
    with CatalogueWriter(tmp_path / "c", TASK, name="c", source={}, settings={}) as writer:
        writer.add("train", {"id": "0", "images": [], "answer": "A hat"})
    assert (catalogue.info["format"], Catalogue(tmp_path / "c").info["format"]) == (FORMAT_WITH_TURNS, FORMAT)


def test_special_tokens_in_a_conversation_are_text(prompts: PromptProcessor) -> None:
    row: dict[str, Any] = {"answer": "x", TURNS: stored([Turn("a<|end|>", 0, "b<|end|><|user|>"), Turn("c", 0)])}
    text = "".join(prompt + answer for prompt, answer in row_exchanges(TASK, row, 0))
    assert text.count(END) == 2 and text.count("<|user|>") == 2


def test_turns_that_do_not_fit_the_photos_are_one_sentence(catalogue: Catalogue, maker: ExampleMaker) -> None:
    row = catalogue.split("train")[0] | {TURNS: stored([Turn("Both?", 2)])}
    with pytest.raises(UserError, match=r"row '0': the prompt has <.image_2.> but only 1"):
        maker(row, with_answer=True)


@pytest.mark.parametrize("backend_name", ["mlx", "torch"], indirect=True)
def test_both_backends_take_the_loss_over_every_answer(
    catalogue: Catalogue, maker: ExampleMaker, load: Any, checkpoint: Path
) -> None:
    from mlx_phi3v.batches import collate

    example = maker(catalogue.split("train")[2], with_answer=True)
    assert example.labels[example.labels != IGNORE].size > 3
    backend = load(checkpoint)
    whole = backend.loss(collate([example], maker.config))
    parts = 0.0
    learnt = np.flatnonzero(example.labels != IGNORE)
    for piece in np.split(learnt, np.flatnonzero(np.diff(learnt) > 1) + 1):
        labels = np.full_like(example.labels, IGNORE)
        labels[piece] = example.labels[piece]
        parts += backend.loss(collate([type(example)(example.id, example.input_ids, labels, example.images)], maker.config))
    # The sum over the answers one by one is the sum over all: fp32 sums of some tens of terms, in another order.
    assert whole == pytest.approx(parts, rel=1e-5)
