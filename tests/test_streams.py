"""Crops spread over CPU streams give what one stream gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_phi3v.backend import load_backend
from mlx_phi3v.backend_mlx import streams
from mlx_phi3v.batches import Batch

mx = pytest.importorskip("mlx.core")


@pytest.fixture
def two_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    made = (mx.new_stream(mx.cpu), mx.new_stream(mx.cpu))
    monkeypatch.setattr(streams, "cpu_streams", lambda: made)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_come_back_in_order(two_streams: None, count: int) -> None:
    x = mx.arange(count * 3).reshape(count, 3)
    np.testing.assert_array_equal(
        np.array(streams.spread(lambda part: part * 2, x)), np.arange(count * 3).reshape(count, 3) * 2
    )


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="streams are for the CPU")
def test_features_and_gradients_are_those_of_one_stream(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).standard_normal((5, 3, 336, 336)).astype(np.float32)
    ids = np.full((1, 8), 5)
    batch = Batch(("a",), ids, ids, np.ones((1, 8), bool), np.arange(8)[None], crops, np.arange(8)[None])
    name = "model.vision_embed_tokens.img_processor.vision_model.encoder.layers.0.mlp.fc1.weight"
    results = []
    for made in ((), (mx.new_stream(mx.cpu), mx.new_stream(mx.cpu))):
        monkeypatch.setattr(streams, "cpu_streams", lambda made=made: made)
        backend = load_backend("mlx", checkpoint, dtype="float32")
        loss, gradients = backend.gradients(batch, [name])
        results.append((backend.vision_features(crops), loss, gradients[name]))
    for one, two in zip(*results):
        # A matrix product over fewer rows may be summed in another order.
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6 * np.abs(one).max())
