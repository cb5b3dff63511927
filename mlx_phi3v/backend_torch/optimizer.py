"""AdamW in torch: made, and its moments under PEFT's names. See `backend.Backend.optimizer_tensors`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..backend import OptimizerArgs

Parameters = Mapping[str, torch.nn.Parameter]  # by PEFT's keys
_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(parameters: Parameters, args: OptimizerArgs, *, fused: bool) -> torch.optim.AdamW:
    """Without gradients yet; the learning rate is set at every step."""
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=0.0, betas=args.betas, eps=args.eps, weight_decay=args.weight_decay, fused=fused or None
    )
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def moments(optimizer: torch.optim.AdamW, parameters: Parameters) -> dict[str, np.ndarray]:
    """Both moments of every parameter, fp32; zeros before the first step."""
    tensors = {}
    for key, parameter in parameters.items():
        state = optimizer.state[parameter]
        for moment in _MOMENTS:
            tensors[f"{key}.{moment}"] = state[moment].cpu().numpy().copy() if state else np.zeros(parameter.shape, np.float32)
    return tensors


def set_moments(
    optimizer: torch.optim.AdamW, parameters: Parameters, tensors: Mapping[str, np.ndarray], step: int, *, fused: bool
) -> None:
    """The inverse of `moments`, after so many steps."""
    for key, parameter in parameters.items():
        device = parameter.device
        optimizer.state[parameter] = {"step": torch.tensor(float(step), device=device if fused else "cpu")} | {
            moment: torch.from_numpy(tensors[f"{key}.{moment}"].copy()).to(device) for moment in _MOMENTS
        }
