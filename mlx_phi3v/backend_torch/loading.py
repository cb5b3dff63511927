"""A checkpoint folder -> the torch backend."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from ..checkpoint.finite import FiniteCheck
from ..checkpoint.headers import TensorInfo, open_checkpoint
from ..checkpoint.layout import expected_tensors, is_quantized, is_unused
from ..config import ModelArgs, load_model_config
from ..kv_cache import check_kv_bits
from ..ranks import TIMEOUT
from .backend import TorchBackend
from .cuda import set_up_cuda
from .decoder import RotaryEmbedding
from .model import Phi3VForCausalLM, parameter_name
from .quantized import dequantize
from .ranks import Ranks

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # numpy has no bfloat16, but a view of the same width


def load(
    folder: Path, *, dtype: str | None = None, accelerator_dtype: str | None = None, attn_implementation: str = "sdpa",
    kv_bits: int | None = None, compiled: bool = False, rank_timeout: float = TIMEOUT,
) -> TorchBackend:  # fmt: skip
    """Load a checkpoint folder. dtype None: fp32 on the CPU; on a GPU accelerator_dtype, else bf16.

    kv_bits: of cached keys and values; None: as they are computed. compiled: whether the step of one token is compiled.
    rank_timeout: see `Ranks`.
    """
    config = load_model_config(folder)
    bits = check_kv_bits(config, kv_bits)
    tensors = open_checkpoint(folder, config)  # before the model is built: a wrong size is refused at once
    ranks = Ranks(rank_timeout)
    device = ranks.device
    dtype = dtype or ("float32" if device.type == "cpu" else accelerator_dtype or "bfloat16")
    if device.type == "cuda":
        set_up_cuda(dtype)
    with torch.device("meta"):  # no memory is taken for weights that are about to be read
        model = Phi3VForCausalLM(config, attn_implementation)
    target = getattr(torch, dtype)
    weights = {}
    used = {name: info for name, info in tensors.items() if not is_unused(name, config)}
    with FiniteCheck(used, dtype) as finite:
        for name in expected_tensors(config):
            if not is_unused(name, config):
                weights[parameter_name(name)] = read_tensor(name, used, config, finite, device).to(device=device, dtype=target)
    model.load_state_dict(weights, strict=True, assign=True)
    finish_model(model, config, device)
    return TorchBackend(model, config, folder, dtype, attn_implementation, ranks, bits, compiled)


def finish_model(model: Phi3VForCausalLM, config: ModelArgs, device: torch.device) -> None:
    """Freeze a model that has its weights, and make its buffers, which no checkpoint holds, off the meta device."""
    model.model.rotary_emb = RotaryEmbedding(config).to(device)
    positions = torch.arange(config.vision.grid**2 + 1, device=device)[None]
    model.model.vision_embed_tokens.img_processor.vision_model.embeddings.register_buffer("position_ids", positions, False)
    model.requires_grad_(False)
    model.eval()


def read_tensor(
    name: str, tensors: dict[str, TensorInfo], config: ModelArgs, finite: FiniteCheck, device: torch.device
) -> torch.Tensor:
    """One tensor of the checkpoint, unpacked where it is quantised, by CUDA where that is the device, else by the CPU.

    What is stored goes to `finite`.
    """
    unpacks = device if device.type == "cuda" else torch.device("cpu")

    def read(key: str) -> torch.Tensor:
        with safe_open(tensors[key].file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
        finite.add(key, tensors[key], lambda: tensor.contiguous().view(_BITS[tensor.element_size()]).numpy())
        return tensor

    if config.quantization and is_quantized(name):
        stem = name.removesuffix("weight")
        weight, scales, biases = (read(key).to(unpacks) for key in (name, stem + "scales", stem + "biases"))
        return dequantize(weight, scales, biases, config.quantization)
    return read(name)
