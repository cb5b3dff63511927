"""A text that begins as one read before is read from there on, and answered as if it were read whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.crops import ProcessedImage, process_image
from mlx_phi3v.decoding import AnswerBatch, Generation, RowState, generate
from mlx_phi3v.kv_cache import kv_bytes
from mlx_phi3v.prefix_cache import LEAST, PrefixCache, common_length, rest_of, token_keys
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.sampling import Sampling
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture

PLENTY = 10**9
MORE = 6  # tokens of an answer


@pytest.fixture(scope="module", params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Backend:
    pytest.importorskip(request.param)
    return load_backend(request.param, make_checkpoint(original_max=150), dtype="float32")


@pytest.fixture(scope="module")
def photos() -> list[ProcessedImage]:
    return [process_image(random_picture(300, 100, seed), 2) for seed in range(3)]


def chat(backend: Backend, text: str, photos: Sequence[ProcessedImage]) -> Example:
    maker = ExampleMaker(PromptProcessor(backend.folder), backend.config, Task(), 2)
    return maker.from_images("chat", tuple(photos), None, text)


def answer(backend: Backend, prefixes: PrefixCache | None, *examples: Example) -> list[Generation]:
    rows = [RowState(example, Sampling(), MORE) for example in examples]
    batch = AnswerBatch(backend, rows, (), prefixes=prefixes)
    while batch.rows:
        batch.step()
    return [row.answer for row in rows]


def same(ours: Sequence[Generation], theirs: Sequence[Generation]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.token_ids == other.token_ids
        # Sums in another order: 1e-5 of logits below 100.
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-3)


def alone(backend: Backend, *examples: Example) -> list[Generation]:
    return generate(backend, examples, max_new_tokens=MORE, stop_ids=())


def test_a_turn_reads_what_the_one_before_did_not(backend: Backend, photos: list[ProcessedImage]) -> None:
    prefixes = PrefixCache(backend.config, PLENTY)
    text = "<|user|>\n<|image_1|>What is this?<|end|><|assistant|>\n"
    first = chat(backend, text, photos[:1])
    [said] = answer(backend, prefixes, first)
    same([said], alone(backend, first))
    assert prefixes.reused == 0
    # The last token chosen was not read; with a further photo, and then a word.
    second = chat(backend, text + "It is red<|end|><|user|>\n<|image_2|>And this?<|end|><|assistant|>\n", photos[:2])
    same(answer(backend, prefixes, second), alone(backend, second))
    shared = common_length(token_keys(first), token_keys(second))
    assert shared >= len(first.input_ids) - 1 and prefixes.reused in range(shared - 1, shared + MORE)
    before = prefixes.reused
    third = Example("chat", np.append(second.input_ids, [9, 10]), np.full(len(second.input_ids) + 2, IGNORE), second.images)
    same(answer(backend, prefixes, third), alone(backend, third))
    assert prefixes.reused - before == len(second.input_ids)


def test_of_a_batch_each_row_goes_on_from_its_own_text(backend: Backend, photos: list[ProcessedImage]) -> None:
    prefixes = PrefixCache(backend.config, PLENTY)
    texts = [chat(backend, f"<|user|>\n<|image_1|>{word}<|end|>", photos[i : i + 1]) for i, word in enumerate(("A", "B b"))]
    answer(backend, prefixes, *texts)
    longer = [chat(backend, "<|user|>\n<|image_1|>C<|end|>", photos[2:])]
    for example, more in zip(texts, ([5, 6, 7], [8])):
        ids = np.append(example.input_ids, more)
        longer.append(Example("longer", ids, np.full(len(ids), IGNORE), example.images))
    same(answer(backend, prefixes, *longer), alone(backend, *longer))
    assert prefixes.reused == sum(len(example.input_ids) for example in texts)


def test_rows_that_read_the_rest_join_the_others_at_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are read as one batch, and no row is copied again for each that joins."""
    prefixes = PrefixCache(backend.config, PLENTY)
    texts = [Example("", np.arange(first, first + 20), np.full(20, IGNORE), ()) for first in (100, 200, 300, 400, 500)]
    answer(backend, prefixes, *texts[:3])
    reads, joins = [], []
    prefill, join = backend.prefill, backend.join

    def noting_prefill(batch: Any, read: Any = None) -> Any:
        reads.append((len(batch.ids), read is not None))
        return prefill(batch, read)

    def noting_join(cache: Any, *others: Any) -> None:
        joins.append(len(others))
        join(cache, *others)

    monkeypatch.setattr(backend, "prefill", noting_prefill)
    monkeypatch.setattr(backend, "join", noting_join)
    rows = [RowState(example, Sampling(), MORE) for example in texts]
    AnswerBatch(backend, rows, (), prefixes=prefixes).step()
    assert sorted(reads) == [(1, True)] * 3 + [(2, False)] and joins == [3]


def test_another_photo_is_read_anew(backend: Backend, photos: list[ProcessedImage]) -> None:
    prefixes = PrefixCache(backend.config, PLENTY)
    text = "<|user|>\n<|image_1|>What is this?<|end|><|assistant|>\n"
    answer(backend, prefixes, chat(backend, text, photos[:1]))
    other = chat(backend, text, photos[1:2])
    same(answer(backend, prefixes, other), alone(backend, other))
    assert prefixes.reused == 0


def test_a_photo_is_never_cut(backend: Backend, photos: list[ProcessedImage]) -> None:
    text = "<|user|>\n" + "many words before it " * 12 + "<|image_1|>"
    one, two = chat(backend, text + "<|image_2|>", photos[:2]), chat(backend, text + "<|image_2|>", [photos[0], photos[0]])
    prefixes = PrefixCache(backend.config, PLENTY)
    answer(backend, prefixes, one)
    found = prefixes.find(two)
    assert found is not None
    read = int(found.lengths[0])
    assert read == int(np.flatnonzero(two.input_ids == -2)[0])
    rest = rest_of(two, read)
    assert len(rest.images) == 1 and rest.images[0] is photos[0] and set(rest.input_ids[rest.input_ids < 0]) == {-1}


def test_a_text_that_changes_its_rope_factors_is_read_anew(backend: Backend) -> None:
    limit = backend.config.original_max_position_embeddings
    ids = np.arange(3, limit + 40)
    prefixes = PrefixCache(backend.config, PLENTY)

    def text(tokens: int) -> Example:
        return Example("text", ids[:tokens], np.full(tokens, IGNORE), ())

    answer(backend, prefixes, text(limit - 20))
    long = text(limit + 1)
    same(answer(backend, prefixes, long), alone(backend, long))
    assert prefixes.reused == 0
    same(answer(backend, prefixes, text(limit + 30)), alone(backend, text(limit + 30)))
    assert prefixes.reused == limit + 1
    short = text(limit - 30)  # begins both texts, and has the factors of the first
    same(answer(backend, prefixes, short), alone(backend, short))
    assert prefixes.reused == limit + 1 + limit - 31
    # What grows past the limit while it is answered is stored with the long factors.
    crossing = text(limit - 3)
    same(answer(backend, prefixes, crossing), alone(backend, crossing))


def test_the_texts_used_last_are_kept_within_the_bytes(backend: Backend) -> None:
    def text(first: int, tokens: int = LEAST + 8) -> Example:
        return Example("text", np.arange(first, first + tokens), np.full(tokens, IGNORE), ())

    each = kv_bytes(backend.config, LEAST + 8 + MORE - 1, 4)
    prefixes = PrefixCache(backend.config, 2 * each)
    for first in (100, 200):
        answer(backend, prefixes, text(first))
    assert prefixes.nbytes() == 2 * each
    answer(backend, prefixes, text(100))  # its own text goes out for it
    assert prefixes.nbytes() == 2 * each and prefixes.reused == LEAST + 7
    answer(backend, prefixes, text(300))
    assert prefixes.nbytes() == 2 * each
    assert prefixes.find(text(200)) is None and prefixes.find(text(100)) is not None
    answer(backend, prefixes, text(400, 5 * LEAST))  # takes more than all of them together
    assert prefixes.nbytes() == 2 * each
    answer(backend, prefixes, text(500, LEAST - MORE))  # too short to be worth it
    assert prefixes.find(text(500, LEAST)) is None


def test_packed_keys_are_stored_packed(backend: Backend, photos: list[ProcessedImage]) -> None:
    packed: Any = load_backend(backend.name, backend.folder, dtype="float32", kv_bits=8)
    prefixes = PrefixCache(packed.config, PLENTY)
    first = chat(packed, "<|user|>\n<|image_1|>What is this?<|end|>", photos[:1])
    answer(packed, prefixes, first)
    assert prefixes.nbytes() == kv_bytes(packed.config, len(first.input_ids) + MORE - 1, 4, 8)
    ids = np.append(first.input_ids, [4, 5])
    second = Example("second", ids, np.full(len(ids), IGNORE), first.images)
    same(answer(packed, prefixes, second), alone(packed, second))
