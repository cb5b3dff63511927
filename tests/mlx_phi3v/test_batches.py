"""Rows become batches in a seeded order that starts anywhere, and no row changes for its neighbours."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.batches import Batch, Example, ExampleMaker, batch_rows, collate, epoch_order
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.config import ModelArgs, load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_bytes
from mlx_phi3v.prompts import IGNORE, PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture


@pytest.fixture(scope="module")
def maker(checkpoint: Path) -> ExampleMaker:
    return ExampleMaker(PromptProcessor(checkpoint), load_model_config(checkpoint), Task(), num_crops=4)


@given(rows=st.integers(1, 50), batch_size=st.integers(1, 9), seed=st.integers(0, 5), start=st.integers(0, 40))
def test_batches_from_any_number_on_are_those_of_an_uninterrupted_run(
    rows: int, batch_size: int, seed: int, start: int
) -> None:
    whole = list(itertools.islice(batch_rows(rows, batch_size, seed), start + 5))
    assert list(itertools.islice(batch_rows(rows, batch_size, seed, start), 5)) == whole[start:]


@given(rows=st.integers(1, 50), batch_size=st.integers(1, 9), seed=st.integers(0, 5))
def test_an_epoch_holds_each_row_once(rows: int, batch_size: int, seed: int) -> None:
    per_epoch = -(-rows // batch_size)
    epochs = list(itertools.islice(batch_rows(rows, batch_size, seed), 2 * per_epoch))
    for epoch in (epochs[:per_epoch], epochs[per_epoch:]):
        assert sorted(itertools.chain(*epoch)) == list(range(rows))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


@given(rows=st.integers(1, 700), batch_size=st.integers(1, 9), seed=st.integers(0, 5), start=st.integers(0, 300))
def test_batches_by_length_hold_each_row_once_from_any_number_on(rows: int, batch_size: int, seed: int, start: int) -> None:
    per_epoch = -(-rows // batch_size)
    start %= 2 * per_epoch
    lengths = np.random.Generator(np.random.PCG64(seed)).integers(1, 1000, rows)
    whole = list(itertools.islice(batch_rows(rows, batch_size, seed, 0, lengths.__getitem__), start + per_epoch))
    assert sorted(itertools.chain(*whole[:per_epoch])) == list(range(rows))
    assert all(len(batch) == batch_size for batch in whole[: per_epoch - 1])
    assert list(itertools.islice(batch_rows(rows, batch_size, seed, start, lengths.__getitem__), per_epoch)) == whole[start:]


def test_batches_by_length_hold_little_padding_and_come_in_no_order_of_length() -> None:
    lengths = np.random.Generator(np.random.PCG64(0)).integers(100, 1000, 1600)

    def padding(batches: list[list[int]]) -> float:
        return float(1 - sum(lengths) / sum(len(batch) * max(lengths[batch]) for batch in batches))

    plain = list(itertools.islice(batch_rows(1600, 16, 3), 100))
    grouped = list(itertools.islice(batch_rows(1600, 16, 3, 0, lengths.__getitem__), 100))
    assert padding(plain) > 0.3 and padding(grouped) < 0.03
    longest = [max(lengths[batch]) for batch in grouped]
    assert 15 < sum(a < b for a, b in itertools.pairwise(longest)) < 85


def test_a_rows_length_is_known_without_decoding_its_photos(maker: ExampleMaker, small_catalogue: Path) -> None:
    for row in Catalogue(small_catalogue).split("train"):
        assert maker.length(row) == len(maker(row, with_answer=True).input_ids)


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(30, epoch, seed)) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert tuple(epoch_order(30, 1, 2)) == orders[5]


def sources(batch: Batch, row: int, config: ModelArgs) -> list[tuple[str, int]]:
    """Where each image token of a row comes from: (hash of its crop, place in the crop); separators are ("", 0 or 1)."""
    g2 = config.vision.merged_grid**2
    index = batch.image_index[row][batch.image_index[row] >= 0]
    crops = [sha256_bytes(crop.tobytes()) for crop in batch.pixel_values]
    last = len(crops) * g2
    return [(crops[i // g2], int(i % g2)) if i < last else ("", int(i - last)) for i in index]


@pytest.mark.parametrize("with_answer", [True, False])
def test_each_row_keeps_its_tokens_positions_and_crops(maker: ExampleMaker, small_catalogue: Path, with_answer: bool) -> None:
    examples = [maker(row, with_answer=with_answer) for row in Catalogue(small_catalogue).split("train")[:6]]
    assert sorted({len(e.images) for e in examples}) == [0, 1, 2]
    batch = collate(examples, maker.config)
    for row, example in enumerate(examples):
        real = batch.attention_mask[row]
        assert real.sum() == len(example.input_ids)
        assert real[0] and (np.diff(real.astype(int)) != 0).sum() <= 1
        np.testing.assert_array_equal(batch.input_ids[row, real], example.input_ids)
        np.testing.assert_array_equal(batch.labels[row, real], example.labels)
        np.testing.assert_array_equal(batch.positions[row, real], np.arange(real.sum()))
        assert (batch.labels[row, ~real] == IGNORE).all() and (batch.image_index[row, ~real] == -1).all()
        np.testing.assert_array_equal(batch.image_index[row, real] >= 0, example.input_ids < 0)
        alone = collate([example], maker.config)
        assert sources(batch, row, maker.config) == sources(alone, 0, maker.config)


def test_an_image_of_one_crop_is_encoded_once(maker: ExampleMaker) -> None:
    small, large = (process_image(random_picture(*size, 0), 4) for size in ((100, 90), (400, 100)))
    one = process_image(random_picture(100, 90, 0), 1)
    assert len(one.distinct_crops) == 1 and one.grid == (1, 1)
    np.testing.assert_array_equal(one.pixel_values[0], one.pixel_values[1])
    assert len(small.distinct_crops) == 5 and len(large.distinct_crops) == 1 + large.grid[0] * large.grid[1]


def test_answer_tokens_leave_out_what_nothing_predicts(maker: ExampleMaker) -> None:
    ids = np.arange(10, 15)
    batch = collate([Example("a", ids, ids, ()), Example("b", ids[:2], np.array([IGNORE, 11]), ())], maker.config)
    assert batch.answer_tokens == 4 + 1


def test_a_row_that_is_too_long_is_an_error_that_names_it(checkpoint: Path, small_catalogue: Path) -> None:
    maker = ExampleMaker(PromptProcessor(checkpoint), load_model_config(checkpoint), Task(), 4, max_length=20)
    with pytest.raises(UserError, match=r"row 'train-0': takes \d+ tokens, more than 20; lower num_crops or raise max_length"):
        maker(Catalogue(small_catalogue).split("train")[0], with_answer=True)


def test_an_unreadable_photo_is_an_error_that_names_row_and_file(maker: ExampleMaker, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    row = {"id": "p7", "images": [str(tmp_path / "broken.png")], "title": "x"}
    with pytest.raises(UserError, match=r"row 'p7': .*broken\.png"):
        maker(row, with_answer=True)


def test_a_prompt_has_no_labels(maker: ExampleMaker, small_catalogue: Path) -> None:
    row = Catalogue(small_catalogue).split("test")[0]
    question, answered = maker(row, with_answer=False), maker(row, with_answer=True)
    assert (question.labels == IGNORE).all()
    np.testing.assert_array_equal(answered.input_ids[: len(question.input_ids)], question.input_ids)
    assert question.id == answered.id == row["id"] and (answered.labels != IGNORE).any()
