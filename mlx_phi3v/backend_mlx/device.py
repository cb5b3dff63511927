"""What MLX computes on, and the modes that decide how exact it is."""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx

from .cpu import blas
from .cpu.streams import cpu_streams
from .ops import on_cpu


def describe() -> dict[str, Any]:
    """Device, limits of its memory in GB, BLAS, threads, reduced precision."""
    info = mx.device_info()
    found: dict[str, Any] = {
        "device": "cpu" if on_cpu() else "gpu",
        "chip": info.get("device_name") or info.get("architecture"),
        "blas": blas.loaded or ("Accelerate" if mx.metal.is_available() else None),
        "streams": len(cpu_streams()) if on_cpu() else None,
        "metal": mx.metal.is_available(),
        "cuda": mx.cuda.is_available(),
        # Read once by MLX, before its first product. `backend.set_up` sets it to 0 where nobody has set it.
        "tf32": os.environ.get("MLX_ENABLE_TF32", "1") != "0" if not on_cpu() else False,
    }
    for name in ("memory_size", "max_recommended_working_set_size", "max_buffer_length"):
        if name in info:
            found[f"{name}_gb"] = round(float(info[name]) / 1e9, 2)
    return found


def advice(found: dict[str, Any]) -> list[str]:
    """What to change, a sentence each."""
    changes = []
    if found["device"] == "cpu" and found["blas"] is None:
        changes.append("MLX has no fast BLAS: pip install opencv-python, or set MLX_PHI3V_BLAS to a library with cblas_sgemm")
    if found["tf32"]:
        changes.append("MLX may round fp32 products to TF32: unset MLX_ENABLE_TF32, or set it to 0")
    if found["device"] == "cpu" and (found["metal"] or found["cuda"]):
        changes.append("MLX computes on the CPU although a GPU is there: remove mx.set_default_device or its setting")
    return changes
