"""Single tensors in MLX: read one from a safetensors file, cast, pack, give its bytes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..checkpoint.headers import TensorInfo
from .ops import in_chunks

_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32}


def dtype(name: str) -> mx.Dtype:
    """MLX's dtype of that name ("bfloat16")."""
    return getattr(mx, name)


def read(info: TensorInfo) -> mx.array:
    """One tensor, read straight from its place in the file."""
    with open(info.file, "rb") as file:
        file.seek(info.start)
        raw = np.fromfile(file, np.uint8, info.size)
    return mx.array(raw).view(_DTYPES[info.dtype]).reshape(info.shape)


def quantize(array: mx.array, group_size: int, bits: int) -> tuple[mx.array, mx.array, mx.array]:
    """Packed weight, scales and biases. MLX: on a CPU the packing is as exact in bf16, and needs half the memory."""
    packed, scales, biases = in_chunks(lambda rows: tuple(mx.quantize(rows, group_size=group_size, bits=bits)), array)
    return packed, scales, biases


def dequantize(packed: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """The inverse of `quantize`, in fp32."""
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(packed, scales, biases, group_size=group_size, bits=bits)


def from_numpy(array: np.ndarray) -> mx.array:
    """fp32 array."""
    return mx.array(array)


def add(array: mx.array, delta: np.ndarray) -> mx.array:
    """array + delta in fp32."""
    return array.astype(mx.float32) + mx.array(delta)


def to_bytes(array: mx.array) -> tuple[str, tuple[int, ...], memoryview]:
    """dtype name, shape and bytes."""
    mx.eval(array)
    name = str(array.dtype).removeprefix("mlx.core.")
    data = np.asarray(array.reshape(-1).view(mx.uint8))  # a view
    return name, tuple(array.shape), data.data
