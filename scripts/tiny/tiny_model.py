"""Shape and first weights of the tiny model."""

from __future__ import annotations

import math

import numpy as np
import torch

from mlx_phi3v.checkpoint.layout import expected_tensors
from mlx_phi3v.config import ModelArgs

EMBEDDINGS = "model.vision_embed_tokens.img_processor.vision_model.embeddings."


def model_json(vocab_size: int) -> dict[str, object]:
    """`config.json` of the tiny model: Phi-3-V's architecture with 28-pixel patches and narrow layers."""
    half = 20
    return {
        "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": vocab_size,
        "hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "initializer_range": 0.02, "max_position_embeddings": 16384, "original_max_position_embeddings": 2048,
        "rope_theta": 10000.0, "sliding_window": 16384, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "su", "short_factor": [1.0] * half, "long_factor": [1.0 + i / 4 for i in range(half)]},
        "embd_layer": {"embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
                       "use_hd_transform": True, "with_learnable_separator": True},
        "img_processor": {
            "name": "clip_vision_model", "model_name": "tiny", "image_dim_out": 160, "num_img_tokens": 36,
            "clip": {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 6, "num_attention_heads": 5,
                     "image_size": 336, "patch_size": 28},
        },
    }  # fmt: skip


def initial_weights(config: ModelArgs, seed: int) -> dict[str, torch.Tensor]:
    """Random weights: normal of 0.02, output projections smaller by depth (GPT-2), norms one, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in expected_tensors(config).items():
        if name.endswith("bias"):
            weights[name] = torch.zeros(shape)
        elif "norm" in name and name.endswith("weight"):
            weights[name] = torch.ones(shape)
        else:
            std = 0.02 if "embed" in name or name.startswith("lm_head") else math.prod(shape[1:]) ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                std /= math.sqrt(2 * config.num_hidden_layers)
            weights[name] = torch.randn(shape, generator=generator) * std
    return weights


def see_principal_parts(weights: dict[str, torch.Tensor], sample: np.ndarray) -> None:
    """Start the patch embedding at the whitened principal components of real patches, in place.

    Random filters of thousands of pixels mostly measure brightness, a hundred times larger than a position: the tower
    then learns what there is but not where. sample: fp32 [N, 3 * size^2] patches. The positions become the sines and
    cosines of row and column, and take up the mean, as CLIP's patch embedding has no bias.
    """
    name = EMBEDDINGS + "patch_embedding.weight"
    width = weights[name].shape[0]
    data = torch.from_numpy(sample)
    mean = data.mean(0)
    values, vectors = torch.linalg.eigh((data - mean).T @ (data - mean) / len(data))
    values, vectors = values.flip(0)[:width], vectors.flip(1)[:, :width]
    filters = (vectors / (values + 1e-3 * values[0]).sqrt()).T
    weights[name] = filters.reshape(weights[name].shape).contiguous()
    position = weights[EMBEDDINGS + "position_embedding.weight"]
    grid = math.isqrt(len(position) - 1)
    rates = 0.5 ** (torch.arange(width // 4) * 5 / (width // 4)) * math.pi / 2
    angles = torch.arange(grid)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    turned = torch.cat([waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)], dim=2)
    position[1:] = 0.7 * turned.reshape(grid * grid, -1) - filters @ mean
