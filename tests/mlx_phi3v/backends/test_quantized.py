"""Quantised layers on a CPU: the same product as MLX's own, and no unpacked weight is saved."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx.core")
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_phi3v.backend_mlx.cpu import quantized as cpu_quantized
from mlx_phi3v.backend_mlx.cpu.quantized import FEW_ROWS, CPUQuantizedLinear
from mlx_phi3v.backend_mlx.cpu.unpacking import unpacked
from mlx_phi3v.backend_mlx.quantized import quantize_language
from mlx_phi3v.config import Quantization
from tests.helpers.tolerances import assert_near, product_tolerance

pytestmark = pytest.mark.numeric


class Language(nn.Module):
    """Layers of names that are quantised, one after the other: [..., 512] -> [..., 512]."""

    def __init__(self, count: int, width: int = 512) -> None:
        super().__init__()
        self.model = {"layers": [{"self_attn": {"o_proj": nn.Linear(width, width, bias=False)}} for _ in range(count)]}

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.model["layers"]:
            x = layer["self_attn"]["o_proj"](x)
        return x


def quantized(count: int, bits: int = 4, width: int = 512) -> Language:
    model = Language(count, width)
    quantize_language(model, Quantization(64, bits))
    model.freeze()
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, FEW_ROWS), (FEW_ROWS + 1, 1), (2, 9)])
def test_product_and_gradient_are_those_of_quantized_matmul(
    bits: int, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    layer: nn.Module = quantized(1, bits, 2048).model["layers"][0]["self_attn"]["o_proj"]
    assert type(layer) is CPUQuantizedLinear and layer.biases is not None
    x, along = (mx.array(rng.standard_normal((*shape, 2048), np.float32)) for _ in range(2))
    # |scale| q + |bias|, so that it also bounds sums that take the two apart.
    packed = (layer.weight, mx.abs(layer.scales), mx.abs(layer.biases))
    weight = np.array(mx.dequantize(*packed, group_size=64, bits=bits)).astype(np.float64)
    magnitudes = np.abs(np.array(x)) @ weight.T, np.abs(np.array(along)) @ weight

    def own(x: mx.array) -> mx.array:
        product: mx.array = nn.QuantizedLinear.__call__(layer, x)
        return product

    gradients = [mx.grad(lambda x, f=f: (f(x) * along).sum()) for f in (layer, own)]
    for (function, expected), magnitude in zip(((layer, own), gradients), magnitudes):
        ours, theirs = np.array(function(x)), np.array(expected(x))
        assert ours.shape == (*shape, 2048)
        assert_near(ours, theirs, magnitude, product_tolerance(2048 + 2))  # and unpacking's product and sum


@pytest.mark.parametrize("backward", [False, True])
def test_unpacked_weights_do_not_add_up(backward: bool) -> None:
    if mx.default_device() != mx.cpu:
        pytest.skip("weights are unpacked on a CPU only")
    unpacked, peaks = 1024 * 1024 * 4, []
    for count in (2, 12):
        model, x = quantized(count, width=1024), mx.ones((8, 1024))
        mx.eval(x)
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(lambda x, model=model: model(x).sum())(x) if backward else model(x))
        peaks.append(mx.get_peak_memory() - held)
    assert peaks[1] - peaks[0] < 2 * unpacked  # ten more layers, of which each was once held


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 64), (700, 512)])
def test_a_weight_is_unpacked_as_mlx_unpacks_it(bits: int, shape: tuple[int, int], rng: np.random.Generator) -> None:
    packed = mx.quantize(mx.array(rng.standard_normal(shape).astype(np.float32)), 64, bits)
    expected = np.array(mx.dequantize(*packed, group_size=64, bits=bits))
    # q * scale + bias is rounded twice, or once.
    largest = np.abs(np.array(packed[1])).max() * 2**bits + np.abs(np.array(packed[2])).max()
    np.testing.assert_allclose(np.array(unpacked(*packed, 64, bits)), expected, rtol=0, atol=2 * 2.0**-24 * largest)


def test_the_gradient_of_the_input_alone_unpacks_no_weight_twice(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer: nn.Module = quantized(1, 4, 512).model["layers"][0]["self_attn"]["o_proj"]
    assert isinstance(layer, CPUQuantizedLinear)
    x, d = (mx.array(rng.standard_normal((40, 512), np.float32)) for _ in range(2))
    whole = mx.vjp(lambda x: [layer(x)], [x], [d])[1][0]
    counted = list[int]()
    monkeypatch.setattr(cpu_quantized, "unpacked", lambda *given: counted.append(1) or unpacked(*given))  # type: ignore[func-returns-value]
    np.testing.assert_array_equal(np.array(layer.input_gradient(d)), np.array(whole))
    assert len(counted) == 1
