"""A stored tensor of floats as numpy reads it, without a framework."""

from __future__ import annotations

import math

import numpy as np

from .headers import TensorInfo

# numpy has no bfloat16: its bits are the upper half of an fp32 number.
KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_floats(info: TensorInfo) -> np.ndarray:
    """The tensor as fp32 [its shape]; what fp32 cannot hold of fp64 becomes infinite. `info.dtype` is one of `KINDS`."""
    read = np.fromfile(info.file, KINDS[info.dtype], math.prod(info.shape), offset=info.start).reshape(info.shape)
    if info.dtype == "BF16":
        return (read.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return read.astype(np.float32)
