"""The CPU's attention gives the fused operation's values and gradients, however blocks and streams fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

mx = pytest.importorskip("mlx.core")

from mlx_phi3v.backend_mlx.cpu import attention as ours  # noqa: E402
from mlx_phi3v.backend_mlx.cpu import streams  # noqa: E402

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")


@settings(max_examples=25)
@given(
    rows=st.integers(1, 2), heads=st.integers(1, 5), tokens=st.integers(1, 400), width=st.integers(1, 9),
    count=st.integers(0, 3), seed=st.integers(0, 99), causal=st.booleans(),
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
            lambda *x: ours.attention(*x, 0.3, causal=causal),
            lambda *x: mx.fast.scaled_dot_product_attention(*x, scale=0.3, mask="causal" if causal else None),
        ):
            gradients = mx.grad(lambda *x, f=attention: (f(*x) * weights).sum(), argnums=(0, 1, 2))(q, k, v)
            results.append([np.array(x) for x in (attention(q, k, v), *gradients)])
    for one, other in zip(*results):
        # fp32 sums over up to 400 keys in another order.
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * max(float(np.abs(other).max()), 1.0))


def test_it_is_for_whole_texts_only() -> None:
    long, short, grouped = mx.zeros((1, 4, 300, 8)), mx.zeros((1, 4, 20, 8)), mx.zeros((1, 2, 300, 8))
    assert ours.is_worth_it(long, long)
    assert not ours.is_worth_it(short, short)  # a few tokens
    assert not ours.is_worth_it(short, long)  # decoding
    assert not ours.is_worth_it(long, grouped)
