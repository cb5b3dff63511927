"""The CPU's exp, softmax and activations are MLX's own, but for rounding, and lose no NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
import mlx.nn as nn  # noqa: E402

from mlx_phi3v.backend_mlx.cpu import math  # noqa: E402

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")


def test_exp_is_right_over_its_whole_range() -> None:
    x = np.concatenate([np.linspace(-86.9, 86.9, 100_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
    found = np.array(math.exp(mx.array(x))).astype(np.float64)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(found / exact - 1) <= 2e-7 + 1e-7 * np.abs(x)).all()
    assert np.array(math.exp(mx.array([0.0, -np.inf, -1000.0]))).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-37)


def plain_swiglu(x: mx.array) -> mx.array:
    gate, up = mx.split(x, 2, axis=-1)
    return nn.silu(gate) * up


PAIRS = {"swiglu": (math.swiglu, plain_swiglu), "quick_gelu": (math.quick_gelu, nn.gelu_fast_approx)}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 7, 10), (400, 6), (2, 130, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_and_their_gradients(name: str, shape: tuple[int, ...], dtype: str) -> None:
    ours, theirs = PAIRS[name]
    random = np.random.Generator(np.random.PCG64(1))
    x = mx.array((4 * random.standard_normal(shape)).astype(np.float32)).astype(getattr(mx, dtype))
    weights = mx.array(random.standard_normal(theirs(x).shape).astype(np.float32))

    def both(function: Callable[[mx.array], mx.array]) -> list[np.ndarray]:
        gradient = mx.grad(lambda x: (function(x).astype(mx.float32) * weights).sum())(x)
        return [np.array(value.astype(mx.float32)) for value in (function(x), gradient)]

    for one, other in zip(both(ours), both(theirs)):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


def test_softmax_is_mlx_s_and_hides_what_is_minus_infinity() -> None:
    x = np.random.Generator(np.random.PCG64(2)).standard_normal((5, 70, 33)).astype(np.float32) * 8
    x[:, :, 20:] = -np.inf
    found = np.array(math.softmax(mx.array(x)))
    np.testing.assert_allclose(found, np.array(mx.softmax(mx.array(x), axis=-1)), rtol=5e-6, atol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x = np.zeros((3, 8), np.float32)
    x[1, 2] = bad
    assert not np.isfinite(np.array(math.softmax(mx.array(x)))[1]).any()
    assert np.isfinite(np.array(math.softmax(mx.array(x)))[[0, 2]]).all()
    assert not np.isfinite(np.array(math.swiglu(mx.array(x)))[1]).all() or np.isinf(bad)
    assert not np.isfinite(np.array(math.quick_gelu(mx.array(x)))[1, 2])
