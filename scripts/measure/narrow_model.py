"""A narrow Phi-3-V of 131,072 positions: the published shape of long RoPE, the built-in model's tokenizer and image side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import expected_tensors
from mlx_phi3v.config import load_model_config

POSITIONS, ORIGINAL = 131_072, 4096  # the published model's


def long_factors(width: int, theta: float) -> list[float]:
    """As the published ones run: 1 where a wave is short, the ratio of both contexts where it is longer than the original."""
    waves = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
    share = np.clip(np.log(waves / 64) / np.log(ORIGINAL / 64), 0, 1)
    return [float(value) for value in np.exp(share * np.log(POSITIONS / ORIGINAL))]


def write_narrow(
    folder: Path,
    *,
    layers: int = 2,
    heads: int = 2,
    hidden: int = 64,
    theta: float = 10000.0,
    vocabulary: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a random checkpoint, fp32, whose image side is the built-in model's where its width is; the folder.

    vocabulary: token ids, more than the tokenizer's; by default as many.
    """
    tiny = resolve_model("tiny")
    config = json.loads((tiny / "config.json").read_text())
    config["vocab_size"] = vocabulary or config["vocab_size"]
    config |= {
        "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "max_position_embeddings": POSITIONS, "original_max_position_embeddings": ORIGINAL,
        "sliding_window": POSITIONS, "rope_theta": theta, "torch_dtype": "float32",
    }  # fmt: skip
    width = hidden // heads
    factors = {"type": "su", "short_factor": [1.0] * (width // 2), "long_factor": long_factors(width, theta)}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": factors}))
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    random = np.random.Generator(np.random.PCG64(seed))
    stored = {name: value for name, value in _fp32(tiny).items() if "vision_embed_tokens" in name}
    tensors = {}
    for name, shape in expected_tensors(load_model_config(folder)).items():
        known = stored.get(name)
        tensors[name] = known if known is not None and known.shape == shape else _random(name, shape, random)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _fp32(folder: Path) -> dict[str, np.ndarray]:
    from mlx_phi3v.checkpoint.floats import read_floats
    from mlx_phi3v.checkpoint.headers import read_tensors

    return {name: read_floats(info) for name, info in read_tensors(folder).items()}


def _random(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if "norm" in name and name.endswith("weight"):
        return np.ones(shape, np.float32)
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    spread = 1.0 if "embed_tokens.weight" in name else float(np.prod(shape[1:])) ** -0.5
    return (spread * random.standard_normal(shape)).astype(np.float32)
