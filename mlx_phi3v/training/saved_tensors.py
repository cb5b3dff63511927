"""The tensors of a training checkpoint, checked as they are read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..checkpoint.finite import require_finite
from ..checkpoint.headers import read_header
from ..documents import plain
from ..errors import UserError


def read_saved(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file that a training wrote, fp32.

    Raises UserError where the file is truncated or corrupt (see `headers.read_header`), where a tensor is not fp32, and
    where a number is NaN or infinite.
    """
    tensors = {}
    for name, info in read_header(path).items():
        if info.dtype != "F32":
            raise UserError(f"{path}: {plain(name)} is of dtype {info.dtype}; it must be F32")
        with open(path, "rb") as file:
            file.seek(info.start)
            array = np.fromfile(file, np.float32, math.prod(info.shape)).reshape(info.shape)
        require_finite(array, info.dtype, plain(name), path)
        tensors[name] = array
    return tensors
