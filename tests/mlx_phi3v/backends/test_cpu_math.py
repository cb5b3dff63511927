"""The CPU's exp, softmax and activations are MLX's own, but for rounding, and lose no NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.tolerances import assert_near, exp_tolerance

pytest.importorskip("mlx.core")
import mlx.core as mx
import mlx.nn as nn

from mlx_phi3v.backend_mlx import ops
from mlx_phi3v.backend_mlx.cpu import math

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")]


def test_exp_is_right_over_its_whole_range() -> None:
    x = np.concatenate([np.linspace(-86.9, 86.9, 100_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
    found = np.array(math.exp(mx.array(x))).astype(np.float64)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(found / exact - 1) <= 2e-7 + 1e-7 * np.abs(x)).all()
    assert np.array(math.exp(mx.array([0.0, -np.inf, -1000.0]))).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-37)


def plain_swiglu(x: mx.array) -> mx.array:
    gate, up = mx.split(x, 2, axis=-1)
    activated: mx.array = nn.silu(gate)
    return activated * up


PAIRS = {"swiglu": (ops.swiglu, plain_swiglu), "quick_gelu": (ops.quick_gelu, nn.gelu_fast_approx)}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 7, 10), (400, 6), (2, 130, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_and_their_gradients(name: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    ours, theirs = PAIRS[name]
    x = mx.array((4 * rng.standard_normal(shape)).astype(np.float32)).astype(getattr(mx, dtype))
    weights = mx.array(rng.standard_normal(theirs(x).shape).astype(np.float32))

    def both(function: Callable[[mx.array], mx.array]) -> list[np.ndarray]:
        gradient = mx.grad(lambda x: (function(x).astype(mx.float32) * weights).sum())(x)
        return [np.array(value.astype(mx.float32)) for value in (function(x), gradient)]

    # d sigmoid = sigmoid (1 - sigmoid) times the error of the exponential, which 1.702 |x| bounds; then up to five
    # products and sums of numbers up to the square of the largest. In bf16 both are MLX's.
    largest = max(1.0, float(mx.abs(x).max()), float(mx.abs(weights).max()))
    for one, other in zip(both(ours), both(theirs)):
        assert_near(one, other, largest**2 * max(1.0, float(np.abs(weights).max())), exp_tolerance(1.702 * largest))


def test_softmax_is_mlx_s_and_hides_what_is_minus_infinity(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 70, 33)).astype(np.float32) * 8
    x[:, :, 20:] = -np.inf
    found = np.array(math.softmax(mx.array(x)))
    assert found[:, :, 20:].max() < 1e-37
    # Two exponentials of differences up to the range, in the numerator and in the sum.
    tolerance = 2 * exp_tolerance(float(np.ptp(x[:, :, :20])))
    np.testing.assert_allclose(found, np.array(mx.softmax(mx.array(x), axis=-1)), rtol=tolerance, atol=1e-30)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=20 * 2.0**-24)  # a sum of 20


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x = np.zeros((3, 8), np.float32)
    x[1, 2] = bad
    assert not np.isfinite(np.array(math.softmax(mx.array(x)))[1]).any()
    assert np.isfinite(np.array(math.softmax(mx.array(x)))[[0, 2]]).all()
    for ours, theirs in PAIRS.values():
        # inf in the gate of 0 * inf gives NaN, as MLX's own does; elsewhere what is finite stays so.
        found, expected = np.array(ours(mx.array(x))), np.array(theirs(mx.array(x)))
        assert not np.isfinite(found[1, 2]) and np.isfinite(found).sum() == found.size - 1
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
