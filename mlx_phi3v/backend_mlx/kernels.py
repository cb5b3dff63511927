"""The kernels that MLX's results here depend on, each alone: numpy in, fp32 numpy out. See `doctor.kernels`."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..sampling import Draws
from . import arrays, next_tokens, ops
from .arrays import dtype as dtype_of
from .arrays import to_numpy
from .lora import LoRALinear


class Kernels:
    """`ops` chooses ours or MLX's own, as in the model."""

    dtypes = ("float32", "bfloat16")

    def swiglu(self, x: np.ndarray, d: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The value, and the gradient where d is that of the value."""
        value, gradient = _value_and_gradients(ops.swiglu, [x], d, dtype)
        return value, gradient

    def quick_gelu(self, x: np.ndarray, d: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """See `swiglu`."""
        value, gradient = _value_and_gradients(ops.quick_gelu, [x], d, dtype)
        return value, gradient

    def layer_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        """The value in fp32 (eps: 1e-5), and the gradients by x, weight and bias where d is that of the value."""
        layer = ops.LayerNorm(x.shape[-1], eps=1e-5)

        def norm(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
            layer.weight, layer.bias = weight, bias
            return layer(x)

        return _value_and_gradients(norm, [x, weight, bias], d)

    def rms_norm(self, x: np.ndarray, weight: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        """See `layer_norm`, without a bias."""
        layer = ops.RMSNorm(x.shape[-1], eps=1e-5)

        def norm(x: mx.array, weight: mx.array) -> mx.array:
            layer.weight = weight
            return layer(x)

        return _value_and_gradients(norm, [x, weight], d)

    def residual(self, x: np.ndarray, y: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        """x + y in fp32, and the gradients by x and y where d is that of the sum."""
        return _value_and_gradients(ops.add, [x, y], d)

    def lora(
        self, x: np.ndarray, weight: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float, d: np.ndarray
    ) -> list[np.ndarray]:
        """x weight^T + scale (x a) b in fp32, and the gradients by x, a and b where d is that of the value."""
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = mx.array(weight)
        layer = LoRALinear(linear, a.shape[1], 0.0, scale)

        def product(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
            layer.lora_a, layer.lora_b = a, b
            values: mx.array = layer(x)
            return values

        return _value_and_gradients(product, [x, a, b], d)

    def rotate(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        """The value in fp32, and the gradient by x where d is that of the value."""
        return _value_and_gradients(lambda x: ops.rotate(x, mx.array(cos), mx.array(sin)), [x], d)

    def attention(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, causal: bool, d: np.ndarray, dtype: str
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The attended values, and the gradients by q, k and v where d is that of the values."""

        def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            return ops.attention(q, k, v, scale, "causal" if causal else None)

        value, *gradients = _value_and_gradients(attend, [q, k, v], d, dtype)
        return value, gradients

    def packed_product(
        self, x: np.ndarray, packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, group: int, bits: int
    ) -> np.ndarray:
        """x [rows, in] times the packed weight, transposed: [rows, out]."""
        return to_numpy(_layer(packed, scales, biases, group, bits)(mx.array(x)))

    def packed_gradient(
        self, d: np.ndarray, packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, group: int, bits: int
    ) -> np.ndarray:
        """The gradient of the product by x, where d [rows, out] is that of the product."""
        layer = _layer(packed, scales, biases, group, bits)
        x = mx.zeros((len(d), scales.shape[1] * group))
        return to_numpy(mx.vjp(lambda x: [layer(x)], [x], [mx.array(d)])[1][0])

    def quantize(self, weight: np.ndarray, group: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Packed words, scales and biases, as a conversion makes them."""
        packed, scales, biases = arrays.quantize(mx.array(weight), group, bits)
        return np.array(packed), to_numpy(scales), to_numpy(biases)

    def product(self, a: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
        """a @ b, of inputs that lie transposed in memory where `transposed`."""
        if transposed:
            left, right = (mx.array(np.ascontiguousarray(x.swapaxes(-1, -2))).swapaxes(-1, -2) for x in (a, b))
            return to_numpy(left @ right)
        return to_numpy(mx.array(a) @ mx.array(b))

    def likeliest(self, logits: np.ndarray, k: int) -> np.ndarray:
        """Ids of the k largest of each row."""
        return np.array(next_tokens.likeliest(mx.array(logits), k)[0])

    def draw(self, logits: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Ids of drawn tokens; columns: see `sampling.Draws`."""
        return np.array(next_tokens.DeviceScores(mx.array(logits)).draw(Draws(columns)))


def kernels() -> Kernels:
    """Those of the device in use."""
    return Kernels()


def _layer(packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, group: int, bits: int) -> nn.QuantizedLinear:
    layer = nn.QuantizedLinear(group * scales.shape[1], len(packed), bias=False, group_size=group, bits=bits)
    layer.__class__ = ops.quantized_linear()
    layer.weight, layer.scales, layer.biases = mx.array(packed), mx.array(scales), mx.array(biases)
    return layer


def _value_and_gradients(
    function: Callable[..., mx.array], inputs: list[np.ndarray], d: np.ndarray, dtype: str = "float32"
) -> list[np.ndarray]:
    """The value, and the gradients by the inputs where d is that of the value, computed in `dtype`."""
    *given, cotangent = (mx.array(x).astype(dtype_of(dtype)) for x in (*inputs, d))
    values, gradients = mx.vjp(lambda *given: [function(*given)], given, [cotangent])
    return [to_numpy(array) for array in (*values, *gradients)]
