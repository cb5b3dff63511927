"""Write a random checkpoint of the published width, to measure speed and memory without the published weights.

    python scripts/bench/make_checkpoint.py TWO --layers 2 --dtype float32
    python scripts/bench/make_checkpoint.py FULL                              all 32 layers in bf16, 8.3 GB
    python scripts/bench/make_checkpoint.py FULL4 --bits 4                    the same in 4 bits, as `convert` packs them

Config and shapes are those of Phi-3-vision-128k-instruct, the tokenizer is the built-in model's. One tensor is in memory
at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import expected_tensors, is_quantized
from mlx_phi3v.checkpoint.writer import ShardWriter
from mlx_phi3v.config import load_model_config
from mlx_phi3v.errors import run_cli
from mlx_phi3v.files import atomic_folder

PUBLISHED = {
    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
    "num_key_value_heads": 32, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    "sliding_window": 131072,
    # Not the published factors: any will do for random weights.
    "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": np.linspace(1, 64, 48).tolist()},
    "img_processor": {"name": "clip_vision_model", "image_dim_out": 1024, "num_img_tokens": 144},
}  # fmt: skip


GROUP = 64  # columns that share a scale, as `convert` has it


def write_checkpoint(folder: Path, layers: int, dtype: str, num_crops: int, bits: int | None = None) -> int:
    """Write the folder; the bytes of its weights. bits: of packed weights. Raises UserError where `folder` is not empty."""
    tiny = resolve_model("tiny")
    config = json.loads((tiny / "config.json").read_text()) | PUBLISHED
    config |= {"num_hidden_layers": layers, "torch_dtype": dtype}
    if bits:
        config |= {"quantization": {"group_size": GROUP, "bits": bits}}
    processor = json.loads((tiny / "preprocessor_config.json").read_text()) | {"num_crops": num_crops}
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(config, indent=1))
        (temporary / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny / name, temporary)
        shapes = expected_tensors(load_model_config(temporary))
        writer = ShardWriter(temporary, 3 * len(shapes))
        random = np.random.Generator(np.random.PCG64(0))
        for name, shape in shapes.items():
            if bits and is_quantized(name):
                _add_packed(writer, name, dtype, shape, bits, random)
            else:
                writer.add(name, dtype, shape, _stored(random_values(name, shape, random), dtype).data)
        writer.close()
    return writer.total


def _add_packed(
    writer: ShardWriter, name: str, dtype: str, shape: tuple[int, ...], bits: int, random: np.random.Generator
) -> None:
    """Random words, and scales and biases with which the weights have a mean of 0 and a deviation of 0.02."""
    rows, columns = shape
    words = random.integers(0, 2**32, (rows, columns * bits // 32), np.uint32)
    step = 0.02 * 12**0.5 / 2**bits
    writer.add(name, "uint32", words.shape, words.reshape(-1).data)
    for part, value in (("scales", step), ("biases", -step * (2**bits - 1) / 2)):
        groups = np.full((rows, columns // GROUP), value, np.float32)
        writer.add(name.removesuffix("weight") + part, dtype, groups.shape, _stored(groups, dtype).data)


def random_values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """fp32: norms 1, biases 0, all else normal with a deviation of 0.02."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if "norm" in name:
        return np.ones(shape, np.float32)
    return np.float32(0.02) * random.standard_normal(shape, np.float32)


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes as safetensors holds them; bf16 is the upper half of an fp32."""
    if dtype == "bfloat16":
        return (values.reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
    return values.reshape(-1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--layers", type=int, default=32, help="decoder layers")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--num-crops", type=int, default=4, help="most crops a photo is cut into")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="pack the decoder layers' weights")
    options = parser.parse_args()
    size = write_checkpoint(options.folder, options.layers, options.dtype, options.num_crops, options.bits)
    print(f"{options.folder}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    run_cli(main)
