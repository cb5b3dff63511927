"""Work in chunks on CPU streams gives the same as the whole at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Batch

mx = pytest.importorskip("mlx.core")

from mlx_phi3v.backend_mlx.cpu import shared, streams  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(mx.default_device() != mx.cpu, reason="streams are for the CPU")]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("rows", "chunk"), [(1, 1), (2, 100), (5, 3), (7, 6), (9, 1)])
def test_chunks_come_back_in_order(monkeypatch: pytest.MonkeyPatch, rows: int, chunk: int, count: int) -> None:
    made = tuple(mx.new_stream(mx.cpu) for _ in range(count))
    monkeypatch.setattr(streams, "cpu_streams", lambda: made)
    monkeypatch.setattr(streams, "CHUNK", chunk)
    x = np.arange(rows * 3).reshape(rows, 3)
    double, total = streams.map_chunks(lambda a, b: (a * 2, a + b), mx.array(x), mx.array(x[:, :1]))
    np.testing.assert_array_equal(np.array(double), x * 2)
    np.testing.assert_array_equal(np.array(total), x + x[:, :1])


def test_features_and_gradients_do_not_depend_on_the_chunks(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).standard_normal((5, 3, 336, 336)).astype(np.float32)
    ids = np.full((1, 140), 5)
    index = np.full((1, 140), -1)
    index[0, :8] = np.arange(8)
    batch = Batch(("a",), ids, ids, np.ones((1, 140), bool), np.arange(140)[None], crops, index)
    names = ["model.vision_embed_tokens.img_processor.vision_model.encoder.layers.0.mlp.fc1.weight",
             "model.layers.0.self_attn.qkv_proj.weight"]  # fmt: skip
    results = []
    for chunk in (1 << 30, 500):
        for module in (streams, shared):
            monkeypatch.setattr(module, "CHUNK", chunk)
        backend = load_backend("mlx", checkpoint, dtype="float32")
        loss, gradients = backend.gradients(batch, names)
        results.append((backend.vision_features(crops), loss, *(gradients[name] for name in names)))
    for whole, chunks in zip(*results):
        np.testing.assert_array_equal(chunks, whole)
