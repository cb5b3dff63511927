"""What the device reaches in MLX: seconds of a product, bytes of a step; and a model of random weights to time."""

from __future__ import annotations

import time
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map

from ..config import ModelArgs
from .arrays import dtype as dtype_of
from .backend import MLXBackend
from .model import Phi3VForCausalLM

MEMORY_IS_MEASURED = True


def product_seconds(m: int, k: int, n: int, dtype: str, times: int) -> float:
    """The fastest of `times` products of [m, k] and [k, n]."""
    a, b = mx.random.normal((m, k)).astype(dtype_of(dtype)), mx.random.normal((k, n)).astype(dtype_of(dtype))
    mx.eval(a, b, a @ b)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        mx.eval(a @ b)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def random_model(config: ModelArgs, dtype: str) -> MLXBackend:
    """A backend with random weights, as it is after loading."""
    model = Phi3VForCausalLM(config)
    model.update(tree_map(lambda x: x.astype(dtype_of(dtype)), model.parameters()))
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
    return MLXBackend(model, config, Path(), dtype)


def memory_in_use() -> int:
    """Bytes of arrays now; the peak is counted from here on."""
    mx.clear_cache()
    mx.reset_peak_memory()
    return int(mx.get_active_memory())


def default_dtype() -> str:
    """See `loading.load`."""
    return "float32" if mx.default_device() == mx.cpu else "bfloat16"
