"""What torch computes on, how arrays get there, and the modes that decide how exact it is."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from .accelerator import choose_device
from .cuda import set_up_cuda

_PINNED = 2**20  # bytes: of more, page-locking takes longer than waiting


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device; a small one without waiting for what the device has to do before, as `Tensor.to` does."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda" and array.nbytes <= _PINNED:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def device_info(device: torch.device, dtype: str) -> dict[str, Any]:
    """See `backend.Backend`."""
    cuda = device.type == "cuda"
    return {
        "name": device.type,
        "chip": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "dtype": dtype,
        "blas": "mkl" if torch.backends.mkl.is_available() else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
        "threads": torch.get_num_threads(),
    }


def describe() -> dict[str, Any]:
    """Device, memory in GB, BLAS, threads; reduced precision as torch has it and as `cuda.set_up_cuda` leaves it in fp32."""
    device = choose_device().type
    cuda = device == "cuda"
    found: dict[str, Any] = {
        "device": device,
        "chip": torch.cuda.get_device_name() if cuda else None,
        "blas": "MKL" if torch.backends.mkl.is_available() else None,
        "threads": torch.get_num_threads(),
        "mps": torch.backends.mps.is_available(),
        "modes_before": _modes(),
    }
    if cuda:
        free, total = torch.cuda.mem_get_info()
        found |= {"memory_size_gb": round(total / 1e9, 2), "memory_free_gb": round(free / 1e9, 2)}
        found |= {"cuda": torch.version.cuda, "capability": ".".join(map(str, torch.cuda.get_device_capability()))}
        set_up_cuda("float32")
    found["modes"] = _modes()
    found["tf32"] = cuda and (found["modes"]["matmul.allow_tf32"] or found["modes"]["cudnn.allow_tf32"])
    return found


def _modes() -> dict[str, Any]:
    matmul, cuda = torch.backends.cuda.matmul, torch.backends.cuda
    return {
        "matmul.allow_tf32": matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "bf16 reduced-precision sums": bool(matmul.allow_bf16_reduced_precision_reduction),
        "fp16 reduced-precision sums": bool(matmul.allow_fp16_reduced_precision_reduction),
        "attention by flash": cuda.flash_sdp_enabled(),
        "attention by cuDNN": cuda.cudnn_sdp_enabled(),
        "attention, memory-efficient": cuda.mem_efficient_sdp_enabled(),
    }


def advice(found: dict[str, Any]) -> list[str]:
    """What to change, a sentence each."""
    changes = []
    if found["tf32"]:
        changes.append("torch rounds fp32 products to TF32: another library set it, so load no other model in this process")
    if found["mps"]:
        changes.append("torch was not tried on a Mac's GPU by those who wrote this: use --backend mlx there")
    return changes
