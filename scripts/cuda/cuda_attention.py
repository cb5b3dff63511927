"""The part of `scripts/cuda/cuda_check.py` that compares torch's attention kernels.

cuDNN makes a plan for every new shape; the others do not. So a length of text seen for the first time is timed apart from
one seen before, and cases must run in their order, in a process that has not seen these shapes yet.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cuda_model import make_rows, seconds
from cuda_parts import repeatable
from cuda_speed import IMAGE_TARGETS, Step, answers, load_for_training, make_batch, train_step
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlx_phi3v.adapters import LANGUAGE, AdapterArgs
from mlx_phi3v.backend import OptimizerArgs
from mlx_phi3v.backend_torch import model as torch_model
from mlx_phi3v.batches import collate
from mlx_phi3v.decoding import extended

Case = tuple[str, Callable[[], dict[str, Any]]]


# name -> (kernels that torch may choose, torch's switch for deterministic algorithms). cuDNN last, so that what any first
# call costs is not laid at its door.
KERNELS = {
    "memory-efficient": ([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], False),
    "flash": ([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], False),
    "flash, deterministic": ([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], True),
    "cuDNN's (torch's default)": ([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH], False),
}


def with_kernels(name: str, case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The case with these attention kernels alone."""
    allowed, deterministic = KERNELS[name]
    with sdpa_kernel(allowed):
        torch.use_deterministic_algorithms(deterministic)
        try:
            return case()
        finally:
            torch.use_deterministic_algorithms(False)


def changing_lengths(backend: Any, folder: Path, rows: int, lengths: int) -> dict[str, Any]:
    """Training steps of the language model whose length is new at every step, then the same lengths again."""
    base = make_rows(folder, rows, with_answer=True)
    for row in base:
        object.__setattr__(
            row, "images", ()
        )  # the image's tokens stay, as embeddings of token 0: the language model alone is timed
    batches = []
    for _ in range(lengths):
        base = [extended(row, 5) for row in base]
        batches.append(collate(base, backend.config))
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)

    def step(batch: Any) -> None:
        backend.accumulate(batch)
        backend.update(1e-4, batch.answer_tokens, 1.0)

    for _ in range(2):
        step(batches[0])
    new = [seconds(partial(step, batch)) for batch in batches[1:]]
    seen = [seconds(partial(step, batch)) for batch in batches[1:]]
    return {"s, new length": statistics.median(new), "s, seen length": statistics.median(seen), "_new": new, "_seen": seen}


def language_cases(backend: Any, adapter: AdapterArgs, folder: Path, peak: float, small: bool) -> Iterator[Case]:
    """For each kernel: answers and steps of new and of seen lengths, one length over and over, the gradient twice."""
    rows, new, lengths, times = (2, 4, 3, 1) if small else (8, 32, 6, 5)
    for name in KERNELS:
        for seen in ("new lengths", "the same again"):
            case = partial(answers, backend, folder, rows // 2, new, 0, profile=seen == "the same again")
            yield f"{name}: answers, {rows // 2} rows, {seen}", partial(with_kernels, name, case)
        case = partial(changing_lengths, backend, folder, rows, lengths)
        yield f"{name}: steps of changing lengths, {rows} rows", partial(with_kernels, name, case)
        yield f"{name}: gradient twice", partial(with_kernels, name, partial(same_gradient, backend, folder))
        step = partial(train_step, backend, adapter, folder, Step(rows, cached=True), peak, times)
        yield f"{name}: features cached, {rows} rows", partial(with_kernels, name, step)


def crops_cases(backend: Any, adapter: AdapterArgs, folder: Path, peak: float, small: bool) -> Iterator[Case]:
    """The frozen tower with a few crops at a time and with all."""
    frozen = partial(train_step, backend, adapter, folder, Step(2 if small else 8), peak, 1 if small else 5)
    for crops in (5, 40):
        yield f"tower frozen, {crops} crops at once", partial(_crops_at_once, crops, frozen)


def _crops_at_once(crops: int, case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with mock.patch.object(torch_model, "CROPS_AT_ONCE", crops):
        return case()


def image_cases(backend: Any, adapter: AdapterArgs, folder: Path, peak: float, small: bool) -> Iterator[Case]:
    """For each kernel: the gradient twice, and a step with LoRA on the image side too."""
    rows, times = (2, 1) if small else (8, 5)
    for name in KERNELS:
        yield f"{name}: gradient twice", partial(with_kernels, name, partial(same_gradient, backend, folder))
        step = partial(train_step, backend, adapter, folder, Step(rows), peak, times)
        yield f"{name}: LoRA on the image side, {rows} rows", partial(with_kernels, name, step)


def same_gradient(backend: Any, folder: Path) -> dict[str, Any]:
    """`repeatable` on one row."""
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    return repeatable(backend, make_batch(backend, folder, Step(1)))


def convolution(device: torch.device, small: bool) -> dict[str, Any]:
    """The patch embedding's convolution in fp32 with and without TF32, against fp64: largest error over largest value."""
    torch.manual_seed(0)
    pixels, weight = torch.randn(5, 3, 336, 336, device=device), torch.randn(64 if small else 1024, 3, 14, 14, device=device)
    exact = functional.conv2d(pixels.double(), weight.double(), stride=14)
    errors = {}
    before = torch.backends.cudnn.allow_tf32
    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        for count in (1, 5):
            ours = functional.conv2d(pixels[:count], weight, stride=14)
            key = f"{count} crops, {'TF32' if tf32 else 'no TF32'}"
            errors[key] = float((ours - exact[:count]).abs().max() / exact.abs().max())
    torch.backends.cudnn.allow_tf32 = before
    return errors


def load_language(folder: Path) -> tuple[Any, AdapterArgs]:
    """A backend for `language_cases`."""
    return load_for_training(folder, LANGUAGE)


def load_image(folder: Path) -> tuple[Any, AdapterArgs]:
    """A backend for `image_cases`."""
    return load_for_training(folder, IMAGE_TARGETS)
