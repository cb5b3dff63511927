"""What the device reaches in MLX: seconds of a product, bytes of a step; and a model of random weights to time."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..config import ModelArgs
from ..timing import fastest
from . import ops
from .arrays import dtype as dtype_of
from .backend import MLXBackend
from .cpu.quantized import FEW_ROWS
from .model import Phi3VForCausalLM

MEMORY_IS_MEASURED = True


def product_seconds(m: int, k: int, n: int, dtype: str, times: int) -> float:
    """The fastest of `times` products of [m, k] and [k, n]."""
    a, b = mx.random.normal((m, k)).astype(dtype_of(dtype)), mx.random.normal((k, n)).astype(dtype_of(dtype))
    mx.eval(a, b)
    return fastest(lambda: mx.eval(a @ b), times)


def attention_seconds(heads: int, tokens: int, width: int, dtype: str, times: int) -> float:
    """The fastest of `times` causal attentions with their gradients, [1, heads, tokens, width]."""
    q, k, v, d = (mx.random.normal((1, heads, tokens, width)).astype(dtype_of(dtype)) for _ in range(4))

    def attend(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
        return [ops.attention(q, k, v, width**-0.5, "causal")]

    return fastest(lambda: mx.eval(*mx.vjp(attend, [q, k, v], [d])), times)


def unpack_seconds(rows: int, columns: int, times: int) -> float | None:
    """The fastest of `times` unpackings of a 4-bit weight, with the product that follows for one token more than packed
    products are used for; None where a step does not unpack weights."""
    if not ops.on_cpu():
        return None
    linear = nn.Linear(columns, rows, bias=False).to_quantized(group_size=64, bits=4)
    linear.__class__ = ops.quantized_linear()
    x = mx.random.normal((FEW_ROWS + 1, columns))
    mx.eval(x, linear.parameters())
    return fastest(lambda: mx.eval(linear(x)), times)


def draw_weights(model: Phi3VForCausalLM, dtype: str) -> None:
    """Give a model weights of the size of random ones. The same million numbers again and again: all would take seconds."""
    some = (0.02 * mx.random.normal((2**20,))).astype(dtype_of(dtype))

    def weight(x: mx.array) -> mx.array:
        return mx.tile(some, -(-x.size // some.size))[: x.size].reshape(x.shape) * 1.0  # a copy, not a view of `some`

    model.update(tree_map(weight, model.parameters()))


def random_model(config: ModelArgs, dtype: str) -> MLXBackend:
    """A backend with random weights, as it is after loading."""
    model = Phi3VForCausalLM(config)
    draw_weights(model, dtype)
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
    return MLXBackend(model, config, Path(), dtype)


def memory_in_use() -> int:
    """Bytes of arrays now; the peak is counted from here on."""
    mx.synchronize()  # the update of the last step may still be computed
    mx.clear_cache()
    mx.reset_peak_memory()
    return int(mx.get_active_memory())


def default_dtype() -> str:
    """See `loading.load`."""
    return "float32" if mx.default_device() == mx.cpu else "bfloat16"
