"""Gradient checkpointing in torch, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .accelerator import mps_random_numbers


def checkpointed(layer: Callable[..., Any]) -> Any:
    """The layer, or another function of tensors, with its activations computed again in the backward pass."""

    def run(*inputs: torch.Tensor, **options: Any) -> Any:
        if inputs[0].device.type == "mps":
            options["context_fn"] = mps_random_numbers
        return checkpoint(layer, *inputs, use_reentrant=False, **options)

    return run
