"""Settings of torch on CUDA."""

from __future__ import annotations

import torch


def set_up_cuda(dtype: str) -> None:
    """What this process needs on CUDA and torch's defaults do not give; figures in docs/performance.md.

    Attention by torch's memory-efficient kernels alone: cuDNN's make a plan for every new shape, some 40 ms each, and every
    token of an answer is a new shape; flash's and cuDNN's may give other bits each time, and a run is to resume bit for bit.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(False)
    if dtype == "float32":  # by default torch lets cuDNN's convolutions round their inputs to TF32's 11 bits
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
