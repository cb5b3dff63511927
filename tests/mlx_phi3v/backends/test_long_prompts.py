"""Prompts read in chunks give what one pass gives, with and without padding, photos and long RoPE factors.

Tolerance: as of `test_model`, 1e-5 of the largest logit; a chunk's attention sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_phi3v import chunks
from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.config import load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture

pytestmark = pytest.mark.numeric
ORIGINAL = 40  # tokens up to which the short RoPE factors are taken


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(original_max=ORIGINAL)


@pytest.fixture(scope="module", params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest, folder: Path) -> Backend:
    pytest.importorskip(request.param)
    return load_backend(request.param, folder, dtype="float32")


@pytest.fixture(scope="module")
def with_photo(folder: Path) -> Example:
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), 4)
    return maker.from_images("photo", (process_image(random_picture(300, 120, seed=3), 4),), None)


def text(tokens: int, seed: int) -> Example:
    ids = np.random.Generator(np.random.PCG64(seed)).integers(3, 1000, tokens)
    return Example(f"{seed}", ids, np.full(tokens, IGNORE), ())


def read(backend: Backend, examples: list[Example], chunk: int, more: int = 2) -> tuple[list[np.ndarray], Any]:
    """Logits after the prompts and after a few tokens more, read with chunks of so many tokens; and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", chunk)
        scores, cache = backend.prefill(collate(examples, backend.config))
    found = [scores.numpy()]
    for token in range(more):
        found.append(backend.decode(cache, np.arange(len(examples)) + 7 + token).numpy())
    return found, cache


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and np.isfinite(mine).all()
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5 * float(np.abs(other).max()))


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3), chunk=st.integers(1, 60), seed=st.integers(0, 999))
def test_chunks_give_the_logits_of_one_pass(backend: Backend, lengths: list[int], chunk: int, seed: int) -> None:
    examples = [text(tokens, seed + i) for i, tokens in enumerate(lengths)]
    whole, cache = read(backend, examples, 10**6)
    in_chunks, chunked = read(backend, examples, chunk)
    close(in_chunks, whole)
    # One pass over a prompt alone, without a cache.
    alone = [backend.forward(collate([example], backend.config)).logits[0, -1] for example in examples]
    close([in_chunks[0]], [np.stack(alone)])
    np.testing.assert_array_equal(chunked.valid, cache.valid)
    np.testing.assert_array_equal(chunked.lengths, cache.lengths)


def test_photos_take_their_rows_in_any_chunk(backend: Backend, with_photo: Example) -> None:
    examples = [text(50, 1), with_photo, text(9, 2)]
    whole, _ = read(backend, examples, 10**6)
    for chunk in (len(with_photo.input_ids) - 1, 64, 7):
        close(read(backend, examples, chunk)[0], whole)


def test_every_chunk_takes_the_factors_of_the_whole_length(backend: Backend) -> None:
    example = text(ORIGINAL + 1, 5)
    whole, _ = read(backend, [example], 10**6)
    close(read(backend, [example], ORIGINAL // 2)[0], whole)  # the first chunk alone would take the short ones


def test_an_answer_is_the_same_whatever_the_chunks(backend: Backend, with_photo: Example) -> None:
    examples = [text(30, 8), with_photo, text(3, 9)]  # the first grows past the original context
    answers = []
    for chunk in (10**6, 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "CHUNK", chunk)
            answers.append([a.token_ids for a in generate(backend, examples, max_new_tokens=14, stop_ids=())])
    assert answers[0] == answers[1] and len(answers[0][0]) == 14


def test_no_mask_of_all_tokens_is_made(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = type(backend.model.model)
    masks, call = [], model.__call__

    def noting(self: Any, hidden: Any, positions: Any, lengths: Any, mask: Any, *rest: Any) -> Any:
        masks.append(mask)
        return call(self, hidden, positions, lengths, mask, *rest)

    monkeypatch.setattr(model, "__call__", noting)
    read(backend, [text(30, 1), text(20, 2)], 30, more=0)  # padded, in one
    read(backend, [text(90, 1), text(70, 2)], 30, more=0)
    assert len(masks) == 7 and all(mask is None or mask == "causal" for mask in masks)


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_keys_and_values_change_logits_little_and_chunks_nothing(
    backend: Backend, folder: Path, with_photo: Example, bits: int
) -> None:
    packed = load_backend(backend.name, folder, dtype="float32", kv_bits=bits)
    examples = [text(50, 1), with_photo, text(9, 2)]
    exact, plain = read(backend, examples, 10**6)
    whole, cache = read(packed, examples, 10**6)
    # A token's numbers are packed alone: neither neighbours nor chunks play a part, up to a number that rounding in fp32
    # moves to the next of its 2^bits steps, as few do.
    in_chunks = read(packed, examples, 16)[0]
    step = 1 / (2**bits - 1)
    for mine, other, near in zip(whole, exact, in_chunks, strict=True):
        spread, off, parted = (float(np.sqrt(np.square(x).mean())) for x in (other, mine - other, mine - near))
        # 32 numbers span about 4 of their deviations, so one is off by 4 / sqrt(12) steps; the keys and values of two layers
        # add up, and a key's error counts more, as it is multiplied by a query.
        assert 0 < off < 8 * step * spread and parted < step * spread
    # fp32: bits and two fp32 numbers for each 32.
    assert cache.nbytes() * 32 == plain.nbytes() * (bits + 2)
    assert packed.kv_bits == bits and backend.kv_bits == 0


def test_bits_that_cannot_be_are_refused(backend_name: str, make_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="--kv-bits is 5; choose 8 or 4"):
        load_backend(backend_name, make_checkpoint(), kv_bits=5)
    with pytest.raises(UserError, match=r"--kv-bits 8 packs 32 numbers together, and the model's keys take 16 a token"):
        load_backend(backend_name, make_checkpoint(kv_heads=1), kv_bits=8)
