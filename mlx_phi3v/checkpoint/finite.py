"""Whether stored numbers are finite, read off their bits: exact, and without a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError

# Width in bytes, and the bits of the positive infinity: larger patterns are NaN, smaller ones finite. The sign lies above.
_INFINITY = {"F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F80 << 16), "F16": (2, 0x7C00), "BF16": (2, 0x7F80)}
_CHUNK = 1 << 17  # elements: a chunk stays in the processor's cache for its second reading


def require_finite(bits: np.ndarray, dtype: str, name: str, file: Path) -> None:
    """Raise UserError, which names the tensor and its file, where a number is NaN or infinite.

    bits: the stored numbers, any shape, C-contiguous, whatever numpy dtype they are viewed as; dtype: as safetensors
    names it. Packed weights (U32) hold any bits.
    """
    if dtype not in _INFINITY:
        return
    width, infinity = _INFINITY[dtype]
    flat = bits.reshape(-1)
    unsigned, signed = flat.view(f"u{width}"), flat.view(f"i{width}")
    negative = infinity | 1 << 8 * width - 1
    for start in range(0, unsigned.size, _CHUNK):
        # As signed integers the largest is the largest positive number; as unsigned ones, the most negative number.
        if signed[start : start + _CHUNK].max() >= infinity or unsigned[start : start + _CHUNK].max() >= negative:
            raise UserError(f"{file}: {name} holds NaN or infinite numbers; download or train it again")
