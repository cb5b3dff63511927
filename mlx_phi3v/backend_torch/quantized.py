"""Reading MLX's packed weights in torch."""

from __future__ import annotations

import torch

from ..config import Quantization


def dequantize(packed: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """`mlx.core.dequantize` (affine): uint32 [rows, columns * bits / 32] -> fp32 [rows, columns].

    Values are packed from the low bits up; w = q * scale + bias by group of columns.
    """
    rows, bits = packed.shape[0], quantization.bits
    words = packed.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    shifts = torch.arange(0, 32, bits)
    unpacked: torch.Tensor = (words[:, :, None] >> shifts) & (2**bits - 1)
    values = unpacked.reshape(rows, -1, quantization.group_size).float()
    return (values * scales.float()[:, :, None] + biases.float()[:, :, None]).reshape(rows, -1)
