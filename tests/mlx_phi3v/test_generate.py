"""Answers are the same with and without a cache, alone and in a batch, and across the change of RoPE factors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.backend import Backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.config import load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import Generation, Sampling, answer_text, extended, generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.generate import main
from mlx_phi3v.next_tokens import Scores
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture

Load = Callable[[Path], Backend]
pytestmark = pytest.mark.numeric


def questions(folder: Path) -> list[Example]:
    """Prompts of different lengths: one picture, none, two, one of more crops."""
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), 4)
    small, wide = (process_image(random_picture(*size, seed=size[0]), 4) for size in ((100, 90), (400, 80)))
    return [maker.from_images(str(i), images, None) for i, images in enumerate([(small,), (), (small, wide), (wide,)])]


def greedy(
    backend: Backend, examples: list[Example], tokens: int = 14, stop: tuple[int, ...] = (), **options: Any
) -> list[Generation]:
    return generate(backend, examples, max_new_tokens=tokens, stop_ids=stop, **options)


def rows_decoded(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that takes the number of rows of every step from now on."""
    sizes: list[int] = []
    decode = backend.decode

    def counted(cache: Any, tokens: Any) -> Scores:
        sizes.append(len(tokens))
        return decode(cache, tokens)

    monkeypatch.setattr(backend, "decode", counted)
    return sizes


def alike(ours: list[Generation], theirs: list[Generation]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.token_ids, mine.finish) == (other.token_ids, other.finish)
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)


@pytest.fixture
def checkpoint_with_short_original_length(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint in which some of the questions grow past the original length while they are answered."""
    lengths = sorted(len(q.input_ids) for q in questions(make_checkpoint()))
    return make_checkpoint(original_max=lengths[2] + 4)


def test_cached_answers_are_uncached_ones(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    alike(greedy(backend, questions(checkpoint)), greedy(backend, questions(checkpoint), cached=False))


def test_the_cache_is_built_again_where_rope_changes(load: Load, checkpoint_with_short_original_length: Path) -> None:
    backend = load(checkpoint_with_short_original_length)
    lengths = [len(q.input_ids) for q in questions(checkpoint_with_short_original_length)]
    limit = backend.config.original_max_position_embeddings
    assert min(lengths) + 14 < limit and any(n <= limit < n + 14 for n in lengths) and max(lengths) > limit
    answers = greedy(backend, questions(checkpoint_with_short_original_length))
    alike(answers, greedy(backend, questions(checkpoint_with_short_original_length), cached=False))
    # What decides each token is the whole text read in one go, as the published code reads it.
    for question, answer in zip(questions(checkpoint_with_short_original_length), answers, strict=True):
        text = question
        for token in answer.token_ids:
            logits = backend.forward(collate([text], backend.config)).logits[0, -1]
            assert int(logits.argmax()) == token
            text = extended(text, token)


@pytest.mark.parametrize("folder", ["checkpoint", "checkpoint_with_short_original_length"])
def test_a_step_begun_before_the_last_token_is_read_changes_no_answer(
    load: Load, folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: the scores stay there. Rows end at different steps, one at the first."""
    path = request.getfixturevalue(folder)
    backend = load(path)
    assert not backend.scores_on_device
    free = greedy(backend, questions(path))
    stop = (free[0].token_ids[2], free[2].token_ids[5], free[1].token_ids[0])
    sampling = Sampling(top_k_logged=4)
    before = greedy(backend, questions(path), stop=stop, sampling=sampling)
    monkeypatch.setattr(backend, "scores_on_device", True)
    sizes = rows_decoded(backend, monkeypatch)
    after = greedy(backend, questions(path), stop=stop, sampling=sampling)
    alike(after, before)
    assert [[[i for i, _ in step] for step in a.top_k] for a in after] == [[[i for i, _ in s] for s in b.top_k] for b in before]
    if folder == "checkpoint":
        assert sizes[0] == 4 and len({len(answer.token_ids) for answer in after}) > 2  # the row that ended at once is in it
    drawn = Sampling(temperature=1.0, top_p=0.9, seed=3)
    there = greedy(backend, questions(path), stop=stop, sampling=drawn)
    monkeypatch.setattr(backend, "scores_on_device", False)
    alike(there, greedy(backend, questions(path), stop=stop, sampling=drawn))


@pytest.mark.parametrize("folder", ["checkpoint", "checkpoint_with_short_original_length"])
def test_a_batch_answers_as_its_rows_alone(load: Load, folder: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    backend = load(path)
    alike(greedy(backend, questions(path)), [greedy(backend, [q])[0] for q in questions(path)])


def test_rows_leave_the_batch_as_they_end(
    load: Load, backend_name: str, checkpoint_with_short_original_length: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(checkpoint_with_short_original_length)
    free = greedy(backend, questions(checkpoint_with_short_original_length))
    # Stop ids that end the rows at different steps: the third token of one row, the sixth of another.
    stop = (free[0].token_ids[2], free[2].token_ids[5])
    sizes = rows_decoded(backend, monkeypatch)
    together = greedy(backend, questions(checkpoint_with_short_original_length), stop=stop)
    alike(together, [greedy(backend, [q], stop=stop)[0] for q in questions(checkpoint_with_short_original_length)])
    ends = [next((i + 1 for i, t in enumerate(answer.token_ids) if t in stop), 14) for answer in free]
    assert [len(answer.token_ids) for answer in together] == ends and len(set(ends)) > 1
    assert [answer.finish for answer in together] == ["end" if n < 14 else "length" for n in ends]
    assert sizes[0] > min(sizes)


def test_sampling_follows_its_seed_and_not_the_batch(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)

    def sample(examples: list[Example], seed: int) -> list[list[int]]:
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
        return [a.token_ids for a in generate(backend, examples, max_new_tokens=8, stop_ids=(), sampling=sampling)]

    together = sample(questions(checkpoint), 1)
    assert together == sample(questions(checkpoint), 1) == [sample([q], 1)[0] for q in questions(checkpoint)]
    assert together != sample(questions(checkpoint), 2)


def test_tokens_are_streamed_and_their_likeliest_logged(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    seen: list[tuple[int, int]] = []
    sampling = Sampling(top_k_logged=3)
    examples = questions(checkpoint)[:2]
    answers = generate(
        backend, examples, max_new_tokens=5, stop_ids=(), sampling=sampling, on_token=lambda row, t: seen.append((row, t))
    )
    for row, answer in enumerate(answers):
        assert [token for of, token in seen if of == row] == answer.token_ids and len(answer.token_ids) == 5
        assert [best[0][0] for best in answer.top_k] == answer.token_ids
        assert all(best[0][1] >= best[1][1] >= best[2][1] for best in answer.top_k)


def test_a_text_ends_at_the_models_longest(load: Load, make_checkpoint: Callable[..., Path]) -> None:
    length = len(questions(make_checkpoint())[1].input_ids)
    folder = make_checkpoint(original_max=length - 3, maximum=length + 4)
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), 1)
    [answer] = greedy(load(folder), [maker.from_images("x", (), None)], tokens=50)
    # The token that would not fit any more is still predicted.
    assert len(answer.token_ids) == 5 and answer.finish == "length"


def test_an_answers_text_has_no_stop_token(checkpoint: Path) -> None:
    prompts = PromptProcessor(checkpoint)
    ids = prompts.tokenize("Wool scarf", [])[1:]
    end = prompts.stop_ids[0]
    assert answer_text(Generation([*ids, end], finish="end"), prompts) == "Wool scarf"
    assert answer_text(Generation(ids, finish="length"), prompts) == "Wool scarf"


def test_the_command_prints_fields_as_json(
    checkpoint: Path, tmp_path: Path, backend_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    random_picture(120, 80, seed=0).save(tmp_path / "a.png")
    flags = ["--model", str(checkpoint), "--backend", backend_name, "--image", str(tmp_path / "a.png"), "--max-tokens", "6"]
    assert main([*flags, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["token_ids"]) == len(record["logprobs"]) == len(record["top_k"]) <= 6
    assert record["fields"].keys() == {"title", "category3_code", "full_price"}
    assert all(field["status"] in ("missing", "truncated") for field in record["fields"].values())
    question = [*flags, "--question", "Which colour?"]
    assert main([*question, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["text"]
    assert main(question) == 0
    assert capsys.readouterr().out == answer + "\n"  # streamed token by token, and the same text
    assert answer.strip() and answer != record["text"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to ask about"),
        (["--prompt", "a", "--question", "b"], "not both"),
        (["--image", "{tmp}/none.png"], r"none\.png"),
    ],
)
def test_wrong_questions_are_named(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([flag.replace("{tmp}", str(tmp_path)) for flag in flags])
