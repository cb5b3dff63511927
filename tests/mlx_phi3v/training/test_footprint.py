"""Estimated peaks are those that were measured at the published width, and what is counted is counted by shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs
from mlx_phi3v.config import ModelArgs, Quantization
from mlx_phi3v.training.footprint import BatchShape, StepSettings, footprint, layer_at_work, layers_save

WHOLE = ModelArgs()
TWO = replace(WHOLE, num_hidden_layers=2)
FROZEN = AdapterArgs(8, 16, target_modules=LANGUAGE)
IMAGE_SIDE = replace(FROZEN, target_modules=(*LANGUAGE, *VISION, *PROJECTOR))
CPU = StepSettings(FROZEN, "float32", False, cpu=True)
GPU = StepSettings(FROZEN, "bfloat16", False, cpu=False)

# GB by MLX's own count, fp32 on x86-64, of `measure_memory.py check` (docs/performance.md); rows, tokens, crops.
ON_A_CPU = [
    (TWO, BatchShape(1, 348, 1, 40), CPU, 3.26),
    (TWO, BatchShape(1, 348, 1, 40), replace(CPU, grad_checkpoint=True), 3.27),
    (TWO, BatchShape(1, 348, 1, 40), replace(CPU, adapter=IMAGE_SIDE), 4.95),
    (TWO, BatchShape(1, 348, 1, 40), replace(CPU, adapter=IMAGE_SIDE, grad_checkpoint=True), 3.38),
    (TWO, BatchShape(1, 780, 5, 40), CPU, 3.68),
    (TWO, BatchShape(1, 780, 5, 40), replace(CPU, grad_checkpoint=True), 3.65),
    (TWO, BatchShape(1, 780, 5, 40), replace(CPU, adapter=IMAGE_SIDE), 11.93),
    (TWO, BatchShape(1, 780, 5, 40), replace(CPU, adapter=IMAGE_SIDE, grad_checkpoint=True), 4.27),
    (
        replace(WHOLE, quantization=Quantization(64, 4)),
        BatchShape(1, 798, 5, 40),
        replace(CPU, grad_checkpoint=True),
        5.77,
    ),
]
# GB by torch's own count on one H200, bf16, of `cuda_check.py` (docs/performance.md): torch saves there what MLX does.
ON_A_GPU = [
    (WHOLE, BatchShape(1, 808, 5, 29), replace(GPU, encode=False), 13.2),
    (WHOLE, BatchShape(8, 808, 40, 29), replace(GPU, encode=False), 46.5),
    (WHOLE, BatchShape(8, 808, 40, 29), replace(GPU, encode=False, grad_checkpoint=True), 11.7),
    (WHOLE, BatchShape(1, 808, 5, 29), GPU, 13.2),
    (WHOLE, BatchShape(8, 808, 40, 29), GPU, 46.5),
    (WHOLE, BatchShape(1, 808, 5, 29), replace(GPU, adapter=IMAGE_SIDE), 17.8),
    (WHOLE, BatchShape(8, 808, 40, 29), replace(GPU, adapter=IMAGE_SIDE), 81.7),
    (WHOLE, BatchShape(8, 808, 40, 29), replace(GPU, adapter=IMAGE_SIDE, grad_checkpoint=True), 13.0),
]


@pytest.mark.parametrize(("config", "shape", "training", "measured"), [*ON_A_CPU, *ON_A_GPU])
def test_estimates_are_within_8_percent_of_what_was_measured(
    config: ModelArgs, shape: BatchShape, training: StepSettings, measured: float
) -> None:
    assert footprint(config, shape, training).total / 1e9 == pytest.approx(measured, rel=0.08)


def test_a_checkpointed_layer_saves_its_input_alone() -> None:
    config, shape = ModelArgs(1000, 64, 96, 5, 4, 4), BatchShape(2, 10, 0)
    checkpointed = replace(CPU, grad_checkpoint=True)
    assert layers_save(config, shape, checkpointed) == 5 * 2 * 10 * 64 * 4
    # 9 of the hidden size, 4 of the MLP's and, of 10 tokens in one block of queries, all probabilities.
    assert layers_save(config, shape, CPU) == 5 * 2 * 10 * 4 * (9 * 64 + 4 * 96 + 4 * 10)
    assert layer_at_work(config, shape, checkpointed) > layer_at_work(config, shape, CPU)
    # In bf16 what LoRA multiplies is there in fp32.
    narrow = replace(CPU, dtype="bfloat16")
    assert layers_save(config, shape, narrow) == 5 * 2 * 10 * (2 * (9 * 64 + 4 * 96 + 4 * 10) + 2 * (3 * 64 + 96))


def test_a_frozen_tower_is_done_before_the_decoder_saves_anything() -> None:
    few, many = BatchShape(1, 200, 5, 40), BatchShape(1, 2550, 5, 40)
    encoded, cached = (replace(CPU, encode=encode) for encode in (True, False))
    assert footprint(TWO, few, encoded).total > footprint(TWO, few, cached).total
    assert footprint(TWO, many, encoded).total == footprint(TWO, many, cached).total


def test_packed_weights_of_a_layer_are_unpacked_on_a_cpu_alone() -> None:
    packed, shape = replace(TWO, quantization=Quantization(64, 4)), BatchShape(1, 200, 0, 40)
    assert layer_at_work(packed, shape, CPU) > layer_at_work(TWO, shape, CPU)
    assert layer_at_work(packed, shape, GPU) == layer_at_work(TWO, shape, GPU)
