"""Small random Phi-3-V checkpoints in the published layout, for tests that need other shapes than the built-in model's."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import expected_tensors
from mlx_phi3v.config import load_model_config

VOCABULARY = 1120


@dataclass(frozen=True)
class Shape:
    """What may differ between checkpoints. By default grouped heads, two layers, 4 x 4 patches a crop: fast to run."""

    hidden: int = 64
    intermediate: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 32
    vision_layers: int = 3
    vision_heads: int = 2
    patch: int = 84
    original_max: int = 4096
    maximum: int = 16384
    num_crops: int = 4
    shards: int = 1
    order: str = "sub_glb"
    long_rope: bool = True


def tokenizer_folder() -> Path:
    """Where the tests' tokenizer lies."""
    return resolve_model("tiny")


def write_checkpoint(folder: Path, shape: Shape | None = None, seed: int = 0) -> Path:
    """Write config, tokenizer and fp32 weights, spread over `shape.shards` files with an index; the folder."""
    shape = shape or Shape()
    folder.mkdir(parents=True)
    half = shape.hidden // shape.heads // 2
    factors = {
        "type": "su",
        "short_factor": [1.0 + 0.02 * i for i in range(half)],
        "long_factor": [1.0 + 0.5 * i for i in range(half)],
    }
    config = {
        "model_type": "phi3_v",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.maximum,
        "original_max_position_embeddings": shape.original_max,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": factors if shape.long_rope else None,
        "embd_layer": {"hd_transform_order": shape.order, "projection_cls": "mlp", "use_hd_transform": True},
        "img_processor": {
            "clip": {
                "hidden_size": shape.vision_hidden,
                "intermediate_size": 2 * shape.vision_hidden,
                "num_hidden_layers": shape.vision_layers,
                "num_attention_heads": shape.vision_heads,
                "image_size": 336,
                "patch_size": shape.patch,
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"num_crops": shape.num_crops}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder() / name, folder / name)
    random = np.random.default_rng(seed)
    tensors = {name: _values(name, size, random) for name, size in expected_tensors(load_model_config(folder)).items()}
    names = list(tensors)
    files: dict[str, str] = {}
    for i in range(shape.shards):
        file = "model.safetensors" if shape.shards == 1 else f"model-{i + 1:05d}-of-{shape.shards:05d}.safetensors"
        part = names[i :: shape.shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file)
    if shape.shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def _values(name: str, size: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Weights scaled so that activations neither vanish nor explode, and a wrong layer shows in the logits."""
    values = random.standard_normal(size).astype(np.float32)
    if "norm" in name or "layrnorm" in name:
        return (1 + 0.1 * values if name.endswith("weight") else 0.1 * values).astype(np.float32)
    if name.endswith(("embedding", "_GN", "bias")) or "embed" in name.rpartition(".")[0].rpartition(".")[2]:
        return values * np.float32(0.5)
    return values / np.float32(np.sqrt(size[-1] if len(size) == 2 else np.prod(size[1:])))
