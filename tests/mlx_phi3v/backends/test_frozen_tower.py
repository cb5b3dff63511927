"""A tower that does not train runs a few crops at a time: the same features, and memory that more crops hardly raise."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx.core")
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from mlx_phi3v.backend_mlx.model import ImageEmbedding
from mlx_phi3v.config import CROPS_AT_ONCE, ModelArgs, VisionArgs
from tests.helpers.tolerances import NETWORK, assert_near

pytestmark = pytest.mark.numeric


@pytest.fixture
def embedding() -> ImageEmbedding:
    """Whose activations take far more than its results: 257 positions of MLP width 1024 a crop."""
    config = ModelArgs(1000, 64, 96, 1, 4, 4, vision=VisionArgs(64, 1024, 3, 4, patch_size=21))
    module = ImageEmbedding(config)
    module.update(tree_map(lambda array: 0.1 * mx.random.normal(array.shape), module.parameters()))
    mx.eval(module.parameters())
    return module


def test_features_do_not_depend_on_how_many_crops_go_together(embedding: ImageEmbedding) -> None:
    crops = mx.random.normal((CROPS_AT_ONCE + 2, 3, 336, 336))
    together = np.array(embedding(crops))  # all of it trains
    embedding.freeze()
    apart = np.array(embedding(crops))
    assert_near(apart, together, float(np.abs(together).max()), NETWORK)


@pytest.mark.parametrize("trained", ["nothing", "projector"])
def test_memory_does_not_grow_with_crops(embedding: ImageEmbedding, trained: str) -> None:
    embedding.freeze()
    if trained == "projector":
        embedding.img_projection[0].unfreeze()
    gradient = nn.value_and_grad(embedding, lambda crops: embedding(crops).square().sum())
    peaks = []
    for count in (CROPS_AT_ONCE, 4 * CROPS_AT_ONCE):
        crops = mx.random.normal((count, 3, 336, 336))
        mx.eval(crops)
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(embedding(crops) if trained == "nothing" else gradient(crops))
        peaks.append(mx.get_peak_memory() - held)
    assert peaks[1] < 1.5 * peaks[0]  # 4 where all crops go together
