"""The names of the backends and of their dtypes: what flags are made of. Loading a backend is `mlx_phi3v.backend`'s."""

from __future__ import annotations

import importlib.util
from typing import Literal

BACKENDS = ("mlx", "torch")
DTYPES = ("float32", "bfloat16", "float16")
Dtype = Literal["float32", "bfloat16", "float16"]


def default_backend() -> str:
    """MLX where it is installed, else torch."""
    return "mlx" if importlib.util.find_spec("mlx") else "torch"
