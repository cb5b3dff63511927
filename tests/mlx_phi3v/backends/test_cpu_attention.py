"""The CPU's attention gives the fused operation's values and gradients, however blocks and streams fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tolerances import assert_near, exp_tolerance, product_tolerance

mx = pytest.importorskip("mlx.core")

from mlx_phi3v.backend_mlx.cpu import attention as ours  # noqa: E402
from mlx_phi3v.backend_mlx.cpu import streams  # noqa: E402

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")]
SCALE = 0.3


def magnitudes(q: np.ndarray, k: np.ndarray, v: np.ndarray, d_out: np.ndarray, causal: bool) -> tuple[list[np.ndarray], float]:
    """Sums of magnitudes behind the values and the gradients of q, k, v, in fp64; the tolerance as a share of them."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    tokens, width = q.shape[2:]
    seen = np.tril(np.ones((tokens, tokens), bool)) if causal else np.ones((tokens, tokens), bool)
    scores = np.where(seen, SCALE * q @ k.swapaxes(2, 3), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    q, k, v, d_out = (np.abs(x) for x in (q, k, v, d_out))
    out = p @ v
    d_scores = p * (d_out @ v.swapaxes(2, 3) + (d_out * out).sum(-1, keepdims=True))
    found = [out, SCALE * d_scores @ k, SCALE * d_scores.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ d_out]
    # What a score is off by is the relative error of its exponential; that, of two scores, is the relative error of p.
    largest = float(SCALE * (q @ k.swapaxes(2, 3)).max())
    of_p = 2 * (product_tolerance(width + 1) * largest + exp_tolerance(2 * largest)) + product_tolerance(tokens)
    # p appears up to twice in a gradient; around it are sums over width, again over width, and over tokens.
    return found, 2 * of_p + 2 * product_tolerance(width) + product_tolerance(tokens)


@settings(max_examples=25)
@given(
    rows=st.integers(1, 2), heads=st.integers(1, 5), tokens=st.integers(1, 400), width=st.integers(1, 9),
    count=st.integers(1, 3), seed=st.integers(0, 99), causal=st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_fused_operation(
    rows: int, heads: int, tokens: int, width: int, count: int, seed: int, causal: bool
) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    q, k, v, weights = (mx.array(random.standard_normal((rows, heads, tokens, width), np.float32)) for _ in range(4))
    made = tuple(mx.new_stream(mx.cpu) for _ in range(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "cpu_streams", lambda: made)
        results = []
        for attention in (
            lambda q, k, v: ours.attention(q, k, v, SCALE, causal=causal),
            lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal" if causal else None),
        ):
            gradients = mx.grad(lambda *x, f=attention: (f(*x) * weights).sum(), argnums=(0, 1, 2))(q, k, v)
            results.append([np.array(x) for x in (attention(q, k, v), *gradients)])
    sums, tolerance = magnitudes(np.array(q), np.array(k), np.array(v), np.array(weights), causal)
    for one, other, magnitude in zip(*results, sums):
        assert_near(one, other, magnitude, tolerance)


def test_it_is_for_whole_texts_only() -> None:
    long, short, grouped = mx.zeros((1, 4, 300, 8)), mx.zeros((1, 4, 20, 8)), mx.zeros((1, 2, 300, 8))
    assert ours.is_worth_it(long, long)
    assert not ours.is_worth_it(short, short)  # a few tokens
    assert not ours.is_worth_it(short, long)  # decoding
    assert not ours.is_worth_it(long, grouped)
