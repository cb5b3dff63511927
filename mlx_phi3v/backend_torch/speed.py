"""What the device reaches in torch: seconds of a product, bytes of a step; and a model of random weights to time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from ..config import ModelArgs
from ..timing import fastest
from .accelerator import choose_device
from .backend import TorchBackend
from .cuda import set_up_cuda
from .loading import finish_model
from .model import Phi3VForCausalLM
from .ranks import Ranks

MEMORY_IS_MEASURED = choose_device().type == "cuda"


def product_seconds(m: int, k: int, n: int, dtype: str, times: int) -> float:
    """The fastest of `times` products of [m, k] and [k, n]."""
    device, kind = choose_device(), getattr(torch, dtype)
    if device.type == "cuda":
        set_up_cuda(dtype)
    a, b = torch.randn(m, k, device=device).to(kind), torch.randn(k, n, device=device).to(kind)
    return fastest(lambda: (a @ b)[0, 0].item(), times)  # waits for the device


def attention_seconds(heads: int, tokens: int, width: int, dtype: str, times: int) -> float:
    """The fastest of `times` causal attentions with their gradients, [1, heads, tokens, width]."""
    device, kind = choose_device(), getattr(torch, dtype)
    q, k, v, d = (torch.randn(1, heads, tokens, width, device=device).to(kind) for _ in range(4))

    def attend() -> None:
        inputs = tuple(x.detach().requires_grad_() for x in (q, k, v))
        values = functional.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], is_causal=True)
        torch.autograd.grad(values, inputs, d)[0][0, 0, 0, 0].item()  # waits for the device

    return fastest(attend, times)


def unpack_seconds(rows: int, columns: int, times: int) -> float | None:
    """None: packed weights are unpacked as a model is loaded, not in a step."""
    return None


def random_model(config: ModelArgs, dtype: str) -> TorchBackend:
    """A backend with random weights, as it is after loading."""
    device = choose_device()
    if device.type == "cuda":
        set_up_cuda(dtype)
    with torch.device("meta"):  # torch's own start values would take seconds
        model = Phi3VForCausalLM(config, "sdpa").to(getattr(torch, dtype))
    model.to_empty(device=device)
    for parameter in model.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    finish_model(model, config, device)
    return TorchBackend(model, config, Path(), dtype, "sdpa", Ranks())


def memory_in_use() -> int:
    """Bytes of arrays now; the peak is counted from here on."""
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def default_dtype() -> str:
    """See `loading.load`."""
    return "float32" if choose_device().type == "cpu" else "bfloat16"
