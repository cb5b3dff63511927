"""Batches padded to a few shapes: what is padded counts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.backend import Backend
from mlx_phi3v.batches import Batch
from mlx_phi3v.buckets import bucket, crop_bucket, feature_bucket, label_bucket, padded, token_bucket
from mlx_phi3v.prompts import IGNORE
from tests.mlx_phi3v.backends.test_model import batch_of


@pytest.mark.parametrize(
    ("of", "most", "an_octave", "free"), [(token_bucket, 1 / 8, 8, 32), (label_bucket, 1, 1, 32), (crop_bucket, 1 / 4, 4, 1)]
)
def test_a_bucket_holds_its_sizes_and_there_are_few(of: Callable[[int], int], most: float, an_octave: int, free: int) -> None:
    sizes = [of(size) for size in range(4097)]
    assert sizes == sorted(sizes) and sizes[0] == free
    for size, taken in enumerate(sizes):
        assert size <= taken <= size * (1 + most) + free and of(taken) == taken
    assert len({taken for taken in sizes if 512 < taken <= 1024}) == an_octave


def test_the_sizes_are_what_the_page_says() -> None:
    assert [token_bucket(size) for size in (1, 350, 512, 513, 798, 830)] == [32, 352, 512, 576, 832, 832]
    assert [label_bucket(size) for size in (0, 32, 33, 120, 129)] == [32, 32, 64, 128, 256]
    assert [crop_bucket(size) for size in (1, 5, 9, 20, 33)] == [1, 5, 10, 20, 40]
    assert bucket(1, 1, 8) == 1


def with_features(backend: Backend, batch: Batch) -> Batch:
    return replace(
        batch, features=backend.vision_features(batch.pixel_values), pixel_values=np.zeros((0, 3, 336, 336), np.float32)
    )


@pytest.mark.numeric
@pytest.mark.parametrize("cached", [False, True])
def test_padding_changes_no_loss(load: Callable[[Path], Backend], checkpoint: Path, cached: bool) -> None:
    backend = load(checkpoint)
    batch = batch_of(checkpoint)
    batch = with_features(backend, batch) if cached else batch
    filled = padded(batch, backend.config, crops=True)
    assert filled.input_ids.shape[1] == token_bucket(batch.input_ids.shape[1]) > batch.input_ids.shape[1]
    assert len(filled.pixel_values) == (0 if cached else crop_bucket(len(batch.pixel_values)))
    assert filled.answer_tokens == batch.answer_tokens
    if filled.features is not None:
        assert len(filled.features) == feature_bucket(*filled.input_ids.shape)
    # The same numbers of a row, but sums of other lengths, which a kernel may split otherwise.
    assert backend.loss(filled) == pytest.approx(backend.loss(batch), rel=1e-6)


def test_separators_stay_behind_the_features_of_padded_crops(checkpoint: Path) -> None:
    from mlx_phi3v.config import load_model_config

    config = load_model_config(checkpoint)
    batch = batch_of(checkpoint, images=(3, 2, 2))
    more = crop_bucket(len(batch.pixel_values)) - len(batch.pixel_values)
    assert more, "choose photos whose crops are no bucket"
    filled = padded(batch, config, crops=True)
    length, each = batch.image_index.shape[1], config.vision.merged_grid**2
    before, after = batch.image_index, filled.image_index[:, :length]
    first = len(batch.pixel_values) * each
    assert set(before[before >= first]) == {first, first + 1}
    np.testing.assert_array_equal(after[before < first], before[before < first])
    np.testing.assert_array_equal(after[before >= first], before[before >= first] + more * each)
    assert (filled.image_index[:, length:] == -1).all() and not filled.pixel_values[-more:].any()


def test_learnt_positions_are_those_before_the_labels() -> None:
    labels = np.array([[IGNORE, IGNORE, 7, 8], [5, IGNORE, IGNORE, 9]])
    empty: Any = np.zeros((2, 4), np.int64)
    batch = Batch(("a", "b"), empty, labels, empty > 0, empty, np.zeros((0, 3, 336, 336)), empty)
    index, targets = batch.learnt()
    assert (index.tolist(), targets.tolist()) == ([1, 2, 6], [7, 8, 9]) and batch.answer_tokens == 3
    index, targets = batch.learnt(5)
    assert (index.tolist(), targets.tolist()) == ([1, 2, 6, 0, 0], [7, 8, 9, IGNORE, IGNORE])
