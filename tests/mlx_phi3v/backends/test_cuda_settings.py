"""What the torch backend sets on CUDA. The switches exist without a GPU; docs/performance.md says what they do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mlx_phi3v.backend_torch.cuda import set_up_cuda


def switches() -> dict[str, bool]:
    """Torch's switches for kernels that a CUDA process may choose."""
    cuda = torch.backends.cuda
    return {
        "cuDNN attention": cuda.cudnn_sdp_enabled(),
        "flash attention": cuda.flash_sdp_enabled(),
        "memory-efficient attention": cuda.mem_efficient_sdp_enabled(),
        "TF32 in products": cuda.matmul.allow_tf32,
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
    }


@pytest.fixture(autouse=True)
def _torch_defaults() -> Iterator[None]:
    cuda, before = torch.backends.cuda, switches()
    yield
    cuda.enable_cudnn_sdp(before["cuDNN attention"])
    cuda.enable_flash_sdp(before["flash attention"])
    cuda.matmul.allow_tf32 = before["TF32 in products"]
    torch.backends.cudnn.allow_tf32 = before["TF32 in convolutions"]


def test_only_attention_that_repeats_its_bits_and_needs_no_plan_is_left() -> None:
    set_up_cuda("bfloat16")
    assert {name: on for name, on in switches().items() if "attention" in name} == {
        "cuDNN attention": False, "flash attention": False, "memory-efficient attention": True,
    }  # fmt: skip


def test_fp32_computes_without_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    set_up_cuda("float32")
    assert not switches()["TF32 in products"]
    assert not switches()["TF32 in convolutions"]


def test_tf32_is_left_as_it_was_where_a_narrower_dtype_is_asked_for() -> None:
    torch.backends.cudnn.allow_tf32 = True
    set_up_cuda("bfloat16")
    assert switches()["TF32 in convolutions"]
