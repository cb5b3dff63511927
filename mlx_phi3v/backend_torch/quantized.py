"""MLX's packed form in torch: weights are read, keys and values are packed too."""

from __future__ import annotations

import torch

from ..config import Quantization


def dequantize(packed: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """`mlx.core.dequantize` (affine): uint32 [rows, columns * bits / 32] -> fp32 [rows, columns].

    Values are packed from the low bits up; w = q * scale + bias by group of columns.
    """
    rows, bits = packed.shape[0], quantization.bits
    words = packed.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    shifts = torch.arange(0, 32, bits, device=packed.device)
    unpacked: torch.Tensor = (words[:, :, None] >> shifts) & (2**bits - 1)
    values = unpacked.reshape(rows, -1, quantization.group_size).float()
    return (values * scales.float()[:, :, None] + biases.float()[:, :, None]).reshape(rows, -1)


def pack_groups(x: torch.Tensor, group: int, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`mlx.core.quantize` of [..., columns]: bytes [..., columns * bits / 8]; scales and biases [..., columns / group].

    The end of a group's range that is farther from zero is met exactly, and zero is one of its steps. Scales and biases have
    the dtype of x; two numbers of 4 bits share a byte, the first in its low bits.
    """
    groups = x.float().unflatten(-1, (-1, group))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    from_low = low.abs() > high.abs()
    scales = ((high - low) / (2**bits - 1)).clamp(min=1e-7)
    scales, edge = torch.where(from_low, scales, -scales), torch.where(from_low, low, high)
    steps = torch.round(edge / scales)
    scales, biases = torch.where(steps != 0, edge / steps, scales), torch.where(steps != 0, edge, 0.0)
    scales, biases = scales.to(x.dtype), biases.to(x.dtype)
    q = torch.round((groups - biases.float()) / scales.float()).clamp(0, 2**bits - 1).to(torch.uint8).flatten(-2)
    if bits == 4:
        q = q[..., ::2] | (q[..., 1::2] << 4)
    return q, scales[..., 0], biases[..., 0]


def unpack_groups(packed: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `pack_groups`, in the dtype of the scales: [..., columns]."""
    if bits == 4:
        packed = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    groups = packed.unflatten(-1, (scales.shape[-1], -1)).to(scales.dtype)
    columns: torch.Tensor = (groups * scales[..., None] + biases[..., None]).flatten(-2)
    return columns
