"""A checkpoint folder -> the MLX backend."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import mlx.core as mx

from ..checkpoint.finite import FiniteCheck
from ..checkpoint.headers import open_checkpoint
from ..checkpoint.layout import is_unused
from ..config import load_model_config
from ..kv_cache import check_kv_bits
from ..ranks import TIMEOUT
from .arrays import stored_bits
from .backend import MLXBackend
from .model import Phi3VForCausalLM, parameter_name
from .ops import on_cpu
from .quantized import quantize_language
from .ranks import Ranks


def load(
    folder: Path, *, dtype: str | None = None, accelerator_dtype: str | None = None, kv_bits: int | None = None,
    compiled: bool = False, rank_timeout: float = TIMEOUT,
) -> MLXBackend:  # fmt: skip
    """Load a checkpoint folder. dtype None: fp32 on the CPU; on Metal or CUDA accelerator_dtype, else bf16.

    kv_bits: of cached keys and values; None: as they are computed. compiled: whether the step of one token is compiled.
    rank_timeout: see `Ranks`.
    """
    config = load_model_config(folder)
    bits = check_kv_bits(config, kv_bits)
    tensors = open_checkpoint(folder, config)  # before the model is built: a wrong size is refused at once
    dtype = dtype or ("float32" if on_cpu() else accelerator_dtype or "bfloat16")
    model = Phi3VForCausalLM(config)
    if config.quantization:
        quantize_language(model, config.quantization)
    target = getattr(mx, dtype)
    used = {name: info for name, info in tensors.items() if not is_unused(name, config)}
    arrays: dict[str, mx.array] = {}
    for file in sorted({info.file for info in used.values()}):
        arrays |= cast(dict[str, mx.array], mx.load(str(file)))
    weights = []
    with FiniteCheck(used, dtype) as finite:
        for name, info in used.items():
            array = arrays.pop(name)
            finite.add(name, info, partial(stored_bits, array))
            weights.append((parameter_name(name), array if array.dtype == mx.uint32 else array.astype(target)))
            mx.eval(weights[-1][1])  # one by one, so that the stored and the cast copy are never both whole
    del arrays, array
    model.load_weights(weights)  # strict: every parameter of the model, and no other
    model.freeze()
    model.eval()
    return MLXBackend(model, config, folder, dtype, bits, compiled, Ranks(rank_timeout))
