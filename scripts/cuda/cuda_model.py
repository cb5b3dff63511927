"""What `scripts/cuda/cuda_check.py` measures on: a random checkpoint of the published shape, rows for it, and clocks.

The small shape is the built-in tiny model's with fewer layers, to try the check itself on a CPU.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mlx_phi3v.batches import Example, ExampleMaker
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.checkpoint.layout import expected_tensors, is_quantized
from mlx_phi3v.config import load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task

CROPS = 4  # a square picture at 4 crops is cut into 2 x 2 and the whole: 5 crops, 757 tokens at the published shape
ANSWER = "Product: Check Wool Scarf, Category: SCARVES, Full Price: 420.00"
PUBLISHED = {
    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096, "sliding_window": 131072,
    # Not the published factors: any do for random weights.
    "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": np.linspace(1, 64, 48).tolist()},
    "img_processor": {"name": "clip_vision_model", "image_dim_out": 1024, "num_img_tokens": 144},
}  # fmt: skip


GROUP = 32  # columns that share a scale; the widths of both shapes are multiples of it


def write_checkpoint(
    folder: Path, *, small: bool, device: torch.device, shard_bytes: float = 2e9, bits: int | None = None
) -> int:
    """Random bf16 weights (norms 1, biases 0, else normal with 0.02) in HF layout with the tiny tokenizer; bytes written.

    bits: of packed weights, in the decoder layers.
    """
    tiny = resolve_model("tiny")
    config = json.loads((tiny / "config.json").read_text())
    if small:
        config["num_hidden_layers"], config["img_processor"]["clip"]["num_hidden_layers"] = 2, 3
    else:
        config |= PUBLISHED
    if bits:
        config |= {"quantization": {"group_size": GROUP, "bits": bits}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(tiny / name, folder)
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    size = total = number = 0
    shapes = expected_tensors(load_model_config(folder))
    for i, (name, shape) in enumerate(shapes.items()):
        packed = packed_tensors(name, shape, device, bits) if bits and is_quantized(name) else None
        made = packed or {name: random_tensor(name, shape, device)}
        shard |= {key: tensor.cpu() for key, tensor in made.items()}
        size += sum(tensor.nbytes for tensor in made.values())
        if size > shard_bytes or i == len(shapes) - 1:
            number += 1
            file = f"model-{number:05d}.safetensors"
            save_file(shard, str(folder / file), metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            total, size, shard = total + size, 0, {}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def random_tensor(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A weight by its name, bf16."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16, device=device)
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)


def packed_tensors(name: str, shape: tuple[int, ...], device: torch.device, bits: int) -> dict[str, torch.Tensor]:
    """Random words, with scales and biases that give the weights a mean of 0 and a deviation of 0.02."""
    rows, columns = shape
    words = torch.randint(-(2**31), 2**31, (rows, columns * bits // 32), dtype=torch.int32, device=device)
    step = 0.02 * 12**0.5 / 2**bits
    scales = torch.full((rows, columns // GROUP), step, dtype=torch.bfloat16, device=device)
    stem = name.removesuffix("weight")
    return {name: words.view(torch.uint32), stem + "scales": scales, stem + "biases": -(2**bits - 1) / 2 * scales}


def make_rows(folder: Path, count: int, *, with_answer: bool) -> list[Example]:
    """Rows of one square picture each; pictures are noise, eight different ones in turn."""
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), CROPS)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (1000, 1000, 3), np.uint8)) for _ in range(min(count, 8))]
    images = [process_image(picture, CROPS) for picture in pictures]
    answer = ANSWER if with_answer else None
    return [maker.from_images(str(i), (images[i % len(images)],), answer) for i in range(count)]


def sync() -> None:
    """Wait for the GPU, so that a clock read next counts all work queued before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    """Give unused GPU memory back, and count its peak from here."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    """Most gigabytes (1e9 bytes) of GPU memory in tensors since `free`; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, the GPU's work included."""
    sync()
    began = time.perf_counter()
    run()
    sync()
    return time.perf_counter() - began


def median_seconds(run: Callable[[], Any], times: int, warm: int = 2) -> float:
    """The median of `times` calls after `warm` that do not count."""
    for _ in range(warm):
        run()
    return statistics.median(seconds(run) for _ in range(times))


def profiled(run: Callable[[], Any], wall: float, most: int = 14) -> dict[str, Any]:
    """The GPU's kernels of one call, by time. wall: seconds of the same call without the profiler.

    busy: time of all kernels and copies over `wall`; what is missing to 1 the GPU waited for the host.
    """
    run()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            run()
            sync()
        events = [event for event in record.key_averages() if event.device_type == DeviceType.CUDA]
        events.sort(key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in events) / 1e6
        kernels = [
            {"kernel": event.key[:160], "ms": round(event.self_device_time_total / 1e3, 3), "calls": event.count}
            for event in events[:most]
        ]
    except (RuntimeError, AssertionError, AttributeError) as error:  # no profiler here: the case's own figures are worth more
        return {"busy": None, "error": str(error)}
    launches = sum(event.count for event in events)
    return {"gpu_seconds": total, "wall_seconds": wall, "busy": total / wall, "launches": launches, "kernels": kernels}
