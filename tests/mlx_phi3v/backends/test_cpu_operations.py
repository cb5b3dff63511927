"""The CPU's activations, norms and rotation are MLX's own, but for rounding, lose no NaN, and keep no more than they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.tolerances import assert_near, exp_tolerance, product_tolerance

pytest.importorskip("mlx.core")
import mlx.core as mx
import mlx.nn as nn

from mlx_phi3v.backend_mlx import ops
from mlx_phi3v.backend_mlx.cpu import shared
from mlx_phi3v.backend_mlx.lora import LoRALinear
from mlx_phi3v.backend_mlx.random_keys import KEYS

pytestmark = [pytest.mark.numeric, pytest.mark.skipif(mx.default_device() != mx.cpu, reason="used on a CPU only")]


@pytest.fixture(autouse=True)
def small_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays are taken too, in several chunks."""
    monkeypatch.setattr(ops, "WORTH_IT", 0)
    monkeypatch.setattr(shared, "CHUNK", 64)


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


def gradients_and_value(function: Callable[..., mx.array], inputs: list[mx.array], d: mx.array) -> list[np.ndarray]:
    values, gradients = mx.vjp(lambda *given: [function(*given)], inputs, [d])
    return [np.array(array) for array in (*values, *gradients)]


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 7, 10), (40, 6)])
@pytest.mark.parametrize(("cls", "own"), [(ops.LayerNorm, nn.LayerNorm), (ops.RMSNorm, nn.RMSNorm)])
def test_norms_and_their_gradients(cls: Any, own: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    width = shape[-1]
    names = ["weight", "bias"] if cls is ops.LayerNorm else ["weight"]
    given = [mx.array(rng.standard_normal(size).astype(np.float32)) for size in (shape, *[(width,)] * len(names))]
    d = mx.array(rng.standard_normal(shape).astype(np.float32))
    found = []
    for one in (cls, own):
        layer = one(width, eps=1e-2)

        def norm(x: mx.array, *parameters: mx.array, layer: nn.Module = layer) -> mx.array:
            layer.update(dict(zip(names, parameters)))
            normed: mx.array = layer(x)
            return normed

        found.append(gradients_and_value(norm, given, d))
    # A mean and its root; 1 / sqrt(eps) is at most 10, and stands in a gradient up to three times.
    tolerance = product_tolerance(width) + product_tolerance(int(np.prod(shape[:-1]))) + 1e-6
    for ours, theirs in zip(*found):
        assert_near(ours, theirs, 100 * max(1.0, float(np.abs(theirs).max())), tolerance)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 8)])
def test_rotation_and_its_gradient(shape: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    b, _, tokens, width = shape
    angles = np.concatenate([rng.standard_normal((b, 1, tokens, width // 2)) * 9] * 2, axis=-1).astype(np.float32)
    cos, sin = mx.array(np.cos(angles)), mx.array(np.sin(angles))
    x, d = (mx.array(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
    # Also of an array that lies transposed in memory, as the heads of a projection do.
    turned = mx.array(np.ascontiguousarray(np.array(x).transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3)
    ours = [gradients_and_value(lambda x: ops.rotate(x, cos, sin), [one], d) for one in (x, turned)]
    monkeypatch.setattr(ops, "WORTH_IT", 1 << 40)
    theirs = gradients_and_value(lambda x: ops.rotate(x, cos, sin), [x], d)
    for found in ours:
        for one, other in zip(found, theirs):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)  # two products of numbers up to 5, and their sum


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(1, 64), (2, 7, 64)])
def test_a_linear_layer_with_lora_and_its_gradients(
    packed: bool, dropout: float, shape: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = nn.Linear(64, 48)
    inner = nn.QuantizedLinear.from_linear(linear, 32, 4) if packed else linear
    if packed:
        inner.__class__ = ops.quantized_linear()
    layer = LoRALinear(inner, 3, dropout, 0.5)
    a, b, x = (mx.array(rng.standard_normal(size).astype(np.float32)) for size in ((64, 3), (3, 48), shape))
    d = mx.array(rng.standard_normal((*shape[:-1], 48)).astype(np.float32))

    def product(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        KEYS.seed(3)  # the same masks
        layer.lora_a, layer.lora_b = a, b
        values: mx.array = layer(x)
        return values

    ours = gradients_and_value(product, [x, a, b], d)
    monkeypatch.setattr(ops, "WORTH_IT", 1 << 40)
    theirs = gradients_and_value(product, [x, a, b], d)
    for one, other in zip(ours, theirs):
        assert_near(one, other, 64 * max(1.0, float(np.abs(other).max())), 2 * product_tolerance(64))


def test_a_first_layer_with_lora_gives_its_own_gradients_alone(rng: np.random.Generator) -> None:
    layer = LoRALinear(nn.Linear(64, 48), 3, 0.0, 0.5)
    a, b, x = (mx.array(rng.standard_normal(size).astype(np.float32)) for size in ((64, 3), (3, 48), (7, 64)))
    d = mx.array(rng.standard_normal((7, 48)).astype(np.float32))

    def product(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        layer.lora_a, layer.lora_b = a, b
        values: mx.array = layer(x)
        return values

    found = []
    for layer.input_trains in (True, False):
        found.append(gradients_and_value(product, [x, a, b], d))
    (whole, of_x, *others), (same, none, *same_others) = found
    assert np.abs(of_x).max() > 1 and not none.any()
    for one, other in zip((whole, *others), (same, *same_others), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_dropped_input_is_the_low_product_s_alone(rng: np.random.Generator) -> None:
    layer = LoRALinear(nn.Linear(8, 4, bias=False), 2, 0.5, 1.0)
    layer.lora_a, layer.lora_b = mx.ones((8, 2)), mx.ones((2, 4))
    x = mx.array(rng.standard_normal((5, 8)).astype(np.float32))
    low = np.array(layer(x) - layer.linear(x))
    assert not np.allclose(low, np.array(x).sum(1, keepdims=True) * 2, atol=1e-3)  # without dropout: two sums of the row


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x = np.zeros((3, 8), np.float32)
    x[1, 2] = bad
    for ours, theirs in PAIRS.values():
        # inf in the gate of 0 * inf gives NaN, as MLX's own does; elsewhere what is finite stays so.
        found, expected = np.array(ours(mx.array(x))), np.array(theirs(mx.array(x)))
        assert not np.isfinite(found[1, 2]) and np.isfinite(found).sum() == found.size - 1
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


def test_a_residual_sum_and_its_gradients(rng: np.random.Generator) -> None:
    x, y, d = (mx.array(rng.standard_normal((2, 9, 10)).astype(np.float32)) for _ in range(3))
    total, of_x, of_y = gradients_and_value(ops.add, [x, y], d)
    np.testing.assert_array_equal(total, np.array(x + y))
    np.testing.assert_array_equal(of_x, np.array(d))
    np.testing.assert_array_equal(of_y, np.array(d))


def test_a_result_takes_no_more_room_than_its_numbers() -> None:
    """Of a part of an array, such as q of what qkv_proj gave, or the gate: MLX would take the room of the whole."""
    qkv, cos, sin = mx.ones((1, 64, 12, 32)), mx.ones((1, 1, 64, 32)), mx.zeros((1, 1, 64, 32))
    mx.eval(qkv, cos, sin)
    q = mx.split(qkv.transpose(0, 2, 1, 3), [4], axis=1)[0]
    for operation in (lambda: ops.rotate(q, cos, sin), lambda: ops.swiglu(qkv)):
        before = mx.get_active_memory()
        values = operation()
        mx.eval(values)
        assert mx.get_active_memory() - before < 1.5 * values.nbytes  # the whole takes two or three times as much
