"""Arrays in MLX: read one from a safetensors file, pack, give its bytes or a numpy copy; trees of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoint.finite import require_finite
from ..checkpoint.headers import TensorInfo
from ..config import Quantization
from ..errors import UserError
from .ops import in_chunks

_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32}


def dtype(name: str) -> mx.Dtype:
    """MLX's dtype of that name ("bfloat16")."""
    return cast(mx.Dtype, getattr(mx, name))


def read(info: TensorInfo, name: str, target: str | None = None) -> mx.array:
    """One tensor, read straight from its place in the file.

    Raises UserError where it holds NaN or infinite numbers, or numbers that the dtype `target` cannot hold.
    """
    with open(info.file, "rb") as file:
        file.seek(info.start)
        raw = np.fromfile(file, np.uint8, info.size)
    require_finite(raw, info.dtype, name, info.file, target)
    return mx.array(raw).view(_DTYPES[info.dtype]).reshape(info.shape)


def read_unpacked(
    tensors: Mapping[str, TensorInfo], name: str, packed: Quantization | None, target: str | None = None
) -> tuple[mx.array, mx.Dtype]:
    """(one weight, unpacked in fp32 where `packed`; the dtype it is stored in: that of its scales). Raises as `read`."""
    if packed is None:
        array = read(tensors[name], name, target)
        return array, array.dtype
    stem = name.removesuffix("weight")
    weight, scales, biases = (read(tensors[key], key, target) for key in (name, f"{stem}scales", f"{stem}biases"))
    return dequantize(weight, scales, biases, packed.group_size, packed.bits), scales.dtype


def stored_bits(array: mx.array) -> np.ndarray:
    """A tensor's bits as whole numbers of its width, without a copy; numpy has no bfloat16. Reads it from the file."""
    return np.asarray(array.view(mx.uint16 if array.itemsize == 2 else mx.uint32))


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


def narrow(array: mx.array, target: mx.Dtype, name: str) -> mx.array:
    """The array in `target`. Raises UserError where float16 cannot hold its numbers."""
    narrowed = array.astype(target)
    if target == mx.float16 and not scalar(mx.isfinite(narrowed).all()):
        raise UserError(f"{name} is beyond 65504, the most of float16; convert the base with --dtype bfloat16 first")
    return narrowed


def add(array: mx.array, delta: np.ndarray) -> mx.array:
    """array + delta in fp32."""
    return array.astype(mx.float32) + mx.array(delta)


def to_bytes(array: mx.array) -> tuple[str, tuple[int, ...], memoryview]:
    """dtype name, shape and bytes."""
    mx.eval(array)
    name = str(array.dtype).removeprefix("mlx.core.")
    data = np.asarray(array.reshape(-1).view(mx.uint8))  # a view
    return name, tuple(array.shape), data.data


def leaves(tree: Any) -> list[mx.array]:
    """All arrays of a nested tree."""
    return [array for _, array in cast(list[tuple[str, mx.array]], tree_flatten(tree))]


def trains(module: nn.Module) -> bool:
    """Whether any parameter of the module trains."""
    return bool(tree_flatten(module.trainable_parameters()))


def scalar(array: mx.array) -> float:
    """The number in a 0-d array."""
    return float(cast(float, array.item()))


def to_numpy(array: mx.array) -> np.ndarray:
    """fp32 numpy copy."""
    return np.array(array.astype(mx.float32))


def set_leaf(tree: Any, path: str, value: mx.array) -> None:
    """Set one array of nested dicts and lists by its dotted path."""
    *parents, last = path.split(".")
    for part in parents:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    tree[last] = value
