"""The recorded checkpoint's weights in numpy, and the same packed into 8 or 4 bits without a framework."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..checkpoint.floats import read_floats
from ..checkpoint.headers import read_tensors
from ..checkpoint.layout import is_quantized
from ..files import write_json, write_tensors

GROUP = 32  # columns; the widths of the recorded checkpoint are multiples of it


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors as fp32."""
    return {name: read_floats(info) for name, info in read_tensors(folder).items()}


def pack(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MLX's affine form: uint32 [rows, columns * bits / 32], from the low bits up, and each group's scale and bias, fp32."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    scales = np.maximum((high - low) / (2**bits - 1), 1e-7).astype(np.float32)
    q = np.clip(np.rint((groups - low[..., None]) / scales[..., None]), 0, 2**bits - 1).astype(np.uint32)
    words = q.reshape(len(weight), -1, 32 // bits) << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(words, axis=-1), scales, low.astype(np.float32)


def unpack(packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `pack`, fp64 [rows, columns]: w = q * scale + bias."""
    q = (packed[..., None] >> np.arange(0, 32, bits, dtype=np.uint32)) & (2**bits - 1)
    groups = q.reshape(*scales.shape, -1) * scales.astype(np.float64)[..., None] + biases.astype(np.float64)[..., None]
    weight: np.ndarray = groups.reshape(len(packed), -1)
    return weight


def write_packed(source: Path, folder: Path, bits: int) -> dict[str, np.ndarray]:
    """Write the checkpoint `source` with packed weights into `folder`; its weights as they are now, fp64."""
    stored, exact = {}, {}
    for name, weight in read_weights(source).items():
        stored[name], exact[name] = weight, weight.astype(np.float64)
        if name.endswith(".weight") and is_quantized(name):
            parts = pack(weight, bits)
            stored |= dict(zip((name, name[:-6] + "scales", name[:-6] + "biases"), parts))
            exact[name] = unpack(*parts, bits)
    folder.mkdir()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"quantization": {"group_size": GROUP, "bits": bits}})
    write_tensors(folder / "model.safetensors", stored)
    return exact
