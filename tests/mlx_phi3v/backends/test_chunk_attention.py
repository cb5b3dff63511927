"""Attention of queries behind cached keys gives what all scores at once give, on both backends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tolerances import assert_near, exp_tolerance, product_tolerance

pytestmark = pytest.mark.numeric
SCALE = 0.3


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The values in fp64, the sums of magnitudes behind them, and the tolerance as a share of those."""
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1).astype(np.float64) for x in (k, v))
    tokens, keys = q.shape[2], k.shape[2]
    scores = np.where(np.tri(tokens, keys, keys - tokens, dtype=bool), SCALE * q @ k.swapaxes(2, 3), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    largest = float(SCALE * (np.abs(q) @ np.abs(k).swapaxes(2, 3)).max())
    # Two scores are off; so are their exponentials, by as much and by the function's own error, once more where a block of
    # keys changes the maximum; then two sums over the keys.
    of_weight = 2 * (product_tolerance(q.shape[3] + 1) * largest + 2 * exp_tolerance(2 * largest))
    return weights @ v, weights @ np.abs(v), of_weight + 2 * product_tolerance(keys)


SHAPES = dict(
    rows=st.integers(1, 2), kv=st.integers(1, 3), group=st.integers(1, 3), tokens=st.integers(2, 70),
    cached=st.integers(1, 90), width=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip


def arrays(rows: int, kv: int, group: int, tokens: int, cached: int, width: int, seed: int) -> list[np.ndarray]:
    random = np.random.Generator(np.random.PCG64(seed))
    shapes = ((kv * group, tokens), (kv, cached + tokens), (kv, cached + tokens))
    return [random.standard_normal((rows, *shape, width), np.float32) for shape in shapes]


@settings(max_examples=25)
@given(**SHAPES, least=st.sampled_from([1, 2**30]))
def test_mlx(least: int, **shape: int) -> None:
    """least: numbers from which on a CPU takes our own."""
    mx = pytest.importorskip("mlx.core")
    from mlx_phi3v.backend_mlx import ops

    given_arrays = arrays(**shape)
    expected, magnitude, tolerance = plain(*given_arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "WORTH_IT", least)
        q, k, v = map(mx.array, given_arrays)
        found = np.array(ops.attention(q, k, v, SCALE, "causal"))
    assert_near(found, expected, magnitude, tolerance)


@settings(max_examples=25)
@given(**SHAPES, queries=st.integers(1, 40))
def test_torch(queries: int, **shape: int) -> None:
    torch = pytest.importorskip("torch")
    from mlx_phi3v.backend_torch import decoder

    module = torch.nn.Module()
    module.num_key_value_groups = shape["group"]
    given_arrays = arrays(**shape)
    expected, magnitude, tolerance = plain(*given_arrays)
    q, k, v = (torch.from_numpy(array) for array in given_arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "QUERIES", queries)
        found, _ = decoder.attention(module, q, k, v, None, scaling=SCALE)
    assert_near(found.transpose(1, 2).numpy(), expected, magnitude, tolerance)
