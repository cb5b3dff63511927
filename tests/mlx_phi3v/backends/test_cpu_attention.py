"""The CPU's attention gives the fused operation's values and gradients, however blocks, heads and threads fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tolerances import assert_near, exp_tolerance, product_tolerance

mx = pytest.importorskip("mlx.core")

from mlx_phi3v.backend_mlx.cpu import attention as ours  # noqa: E402
from mlx_phi3v.backend_mlx.cpu import shared  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")]
SCALE = 0.3


def seen(queries: int, keys: int, causal: bool) -> np.ndarray:
    """bool [queries, keys]: what each query sees; the queries are the last of the keys' places."""
    places = np.arange(keys - queries, keys)[:, None]
    return np.arange(keys)[None] <= places if causal else np.ones((queries, keys), bool)


def magnitudes(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, d_out: np.ndarray, mask: np.ndarray
) -> tuple[list[np.ndarray], float]:
    """Sums of magnitudes behind the values and the gradients of q, k, v, in fp64; the tolerance as a share of them."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    groups, (keys, width) = k.shape[1], k.shape[2:]
    k, v = (x.repeat(q.shape[1] // groups, axis=1) for x in (k, v))
    scores = np.where(mask, SCALE * q @ k.swapaxes(2, 3), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    q, k, v, d_out = (np.abs(x) for x in (q, k, v, d_out))
    out = p @ v
    d_scores = p * (d_out @ v.swapaxes(2, 3) + (d_out * out).sum(-1, keepdims=True))
    of_k, of_v = SCALE * d_scores.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ d_out
    found = [out, SCALE * d_scores @ k, *(x.reshape(len(x), groups, -1, keys, width).sum(2) for x in (of_k, of_v))]
    # What a score is off by is the relative error of its exponential; that, of two scores, is the relative error of p.
    largest = float(SCALE * (q @ k.swapaxes(2, 3)).max())
    of_p = 2 * (product_tolerance(width + 1) * largest + exp_tolerance(2 * largest)) + product_tolerance(keys)
    # p appears up to twice in a gradient; around it are sums over width, again over width, and over queries of each head.
    return found, 2 * of_p + 2 * product_tolerance(width) + product_tolerance(keys * q.shape[1])


@settings(max_examples=25)
@given(
    rows=st.integers(1, 2), groups=st.integers(1, 3), each=st.integers(1, 3), queries=st.integers(1, 200),
    before=st.integers(0, 50), width=st.integers(1, 9), block=st.sampled_from([16, 50, 320]), seed=st.integers(0, 99),
    causal=st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_fused_operation(
    rows: int, groups: int, each: int, queries: int, before: int, width: int, block: int, seed: int, causal: bool
) -> None:
    keys = queries + before
    random = np.random.Generator(np.random.PCG64(seed))
    q, weights = (random.standard_normal((rows, groups * each, queries, width), np.float32) for _ in range(2))
    k, v = (random.standard_normal((rows, groups, keys, width), np.float32) for _ in range(2))
    mask = seen(queries, keys, causal)
    results = []
    for attention in (
        lambda q, k, v: ours.attention(q, k, v, SCALE, causal=causal),
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask=mx.array(mask)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours, "BLOCK", block)
            given_arrays = [mx.array(x) for x in (q, k, v)]
            values, gradients = mx.vjp(lambda *x, f=attention: [f(*x)], given_arrays, [mx.array(weights)])
            results.append([np.array(x) for x in (*values, *gradients)])
    sums, tolerance = magnitudes(q, k, v, weights, mask)
    for one, other, magnitude in zip(*results, sums):
        assert_near(one, other, magnitude, tolerance)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.Generator(np.random.PCG64(0))
    q, k, v = (mx.array(random.standard_normal((2, 5, 90, 8), np.float32)) for _ in range(3))
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(shared, "cores", lambda threads=threads: threads)
        shared._pool.cache_clear()
        found.append(np.array(ours.attention(q, k, v, SCALE, causal=True)))
    shared._pool.cache_clear()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    q = np.zeros((1, 2, 40, 4), np.float32)
    q[0, 1, 7, 2] = bad
    k = mx.ones((1, 2, 40, 4))
    found = np.isfinite(np.array(ours.attention(mx.array(q), k, k, SCALE, causal=True)))
    assert not found[0, 1, 7].any() and found.sum() == found.size - 4


def test_it_is_for_many_queries() -> None:
    long, short, grouped = mx.zeros((1, 4, 300, 8)), mx.zeros((1, 4, 8, 8)), mx.zeros((1, 2, 300, 8))
    assert ours.is_worth_it(long, long)
    assert ours.is_worth_it(long, grouped)
    assert not ours.is_worth_it(short, short)  # a few tokens
    assert not ours.is_worth_it(short, long)  # decoding
    assert not ours.is_worth_it(long, short)  # the keys are another text's
