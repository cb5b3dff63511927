"""Unpacking MLX's packed weights on a CPU, in fp32: by a table, in chunks and threads.

MLX's own has one thread, and while a gradient is recorded it keeps what it computes on the way: seven times the weight.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .shared import in_rows, view

BITS = (4, 8)  # what is done here
# Both numbers of a byte of 4-bit ones, side by side, as one number of 8 bytes: numpy looks those up fastest.
_PAIRS = np.array([(byte & 15, byte >> 4) for byte in range(256)], np.float32).view(np.uint64)[:, 0]


def unpacked(packed: mx.array, scales: mx.array, biases: mx.array, group_size: int, bits: int) -> mx.array:
    """uint32 [rows, columns * bits / 32], fp32 [rows, groups] twice -> fp32 [rows, columns]: w = q * scale + bias."""
    rows, columns = scales.shape[0], scales.shape[1] * group_size
    weight = mx.zeros((rows, columns), mx.float32)
    out, numbers = view(weight).reshape(rows, -1, group_size), np.asarray(packed).view(np.uint8)
    steps, starts = (view(x)[:, :, None] for x in (scales, biases))

    def work(some: slice) -> None:
        part = out[some]
        values = _PAIRS[numbers[some]].view(np.float32) if bits == 4 else numbers[some]
        np.multiply(values.reshape(part.shape), steps[some], out=part)
        part += starts[some]

    in_rows(work, rows, columns)
    return weight
