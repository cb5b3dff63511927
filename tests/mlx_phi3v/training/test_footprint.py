"""Estimated peaks are those that were measured at the published width, and what is counted is counted by shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_phi3v.adapters import LANGUAGE, LM_HEAD, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.config import ModelArgs, Quantization, VisionArgs
from mlx_phi3v.kv_cache import kv_bytes
from mlx_phi3v.prompts import IGNORE
from mlx_phi3v.training.footprint import answer_bytes, footprint, layer_at_work, layers_save
from mlx_phi3v.training.step_shape import BatchShape, StepSettings

WHOLE = ModelArgs()
TWO = replace(WHOLE, num_hidden_layers=2)
FROZEN = AdapterArgs(8, 16, target_modules=LANGUAGE)
IMAGE_SIDE = replace(FROZEN, target_modules=(*LANGUAGE, *VISION, *PROJECTOR))
CPU = StepSettings(FROZEN, "float32", False, cpu=True)
GPU = StepSettings(FROZEN, "bfloat16", False, cpu=False)

# GB by MLX's own count, fp32 on x86-64, of `measure_memory.py check` (docs/performance.md); rows, tokens, crops.
CACHED = replace(CPU, encode=False)
PROJECTED = replace(FROZEN, target_modules=(*LANGUAGE, *PROJECTOR))
ON_A_CPU = [
    (TWO, BatchShape(1, 348, 1, 40), CPU, 3.21),
    (TWO, BatchShape(1, 798, 5, 40), CPU, 3.54),
    (TWO, BatchShape(1, 798, 5, 40), replace(CPU, grad_checkpoint=True), 3.40),
    (TWO, BatchShape(1, 348, 1, 40), replace(CPU, adapter=IMAGE_SIDE), 4.26),
    (TWO, BatchShape(1, 798, 5, 40), replace(CPU, adapter=IMAGE_SIDE, grad_checkpoint=True), 3.91),
    (TWO, BatchShape(1, 798, 5, 40), replace(CPU, adapter=PROJECTED), 3.62),
    (TWO, BatchShape(4, 348, 4, 40), CACHED, 3.98),
    (replace(TWO, quantization=Quantization(64, 4)), BatchShape(1, 348, 1, 40), CACHED, 2.63),
    (TWO, BatchShape(1, 348, 1, 40), replace(CACHED, adapter=replace(FROZEN, r=64)), 3.30),
    (TWO, BatchShape(1, 348, 1, 40), replace(CACHED, adapter=replace(FROZEN, modules_to_save=LM_HEAD)), 6.11),
    (TWO, BatchShape(1, 348, 1, 40), replace(CACHED, adapter=replace(FROZEN, lora_dropout=0.1)), 3.29),
    (TWO, BatchShape(1, 80, 1, 40), replace(CACHED, dtype="bfloat16"), 1.56),
    (
        replace(WHOLE, quantization=Quantization(64, 4)),
        BatchShape(1, 798, 5, 40),
        replace(CPU, grad_checkpoint=True),
        5.40,
    ),
]
# Compiled ones, of `measure_memory.py check --compiled`, and others of MLX's own operations.
COMPILED = replace(CACHED, compiled=True)
AGAIN = replace(COMPILED, grad_checkpoint=True)
PACKED = replace(TWO, quantization=Quantization(64, 4))
ON_A_CPU += [
    (TWO, BatchShape(1, 348, 1, 40), COMPILED, 3.40),
    (TWO, BatchShape(1, 798, 5, 40), replace(COMPILED, encode=True), 4.18),
    (TWO, BatchShape(1, 1600, 5, 40), COMPILED, 6.16),
    (TWO, BatchShape(4, 348, 4, 40), COMPILED, 4.74),
    (TWO, BatchShape(1, 1600, 5, 40), AGAIN, 5.69),
    (TWO, BatchShape(1, 348, 1, 40), replace(COMPILED, encode=True, adapter=IMAGE_SIDE), 5.02),
    (TWO, BatchShape(1, 798, 5, 40), replace(AGAIN, encode=True, adapter=IMAGE_SIDE), 4.45),
    (PACKED, BatchShape(1, 348, 1, 40), COMPILED, 2.90),
    (PACKED, BatchShape(1, 1600, 5, 40), COMPILED, 4.98),
    (PACKED, BatchShape(4, 348, 4, 40), AGAIN, 4.04),
    (TWO, BatchShape(1, 200, 1, 40), replace(CACHED, dtype="bfloat16"), 1.65),
    (TWO, BatchShape(1, 2550, 17, 40), CACHED, 4.79),
    (TWO, BatchShape(1, 798, 5, 40), replace(CPU, adapter=IMAGE_SIDE), 8.65),
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


def test_a_compiled_step_that_nobody_measured_is_counted_with_room_to_spare() -> None:
    shape = BatchShape(1, 832, 5, 64)
    plain, compiled = (footprint(WHOLE, shape, replace(GPU, compiled=how)).activations for how in (False, True))
    assert compiled > 1.11 * plain


def test_a_checkpointed_layer_saves_its_input_alone() -> None:
    config, shape = ModelArgs(1000, 64, 96, 5, 4, 4), BatchShape(2, 10, 0)
    checkpointed = replace(CPU, grad_checkpoint=True)
    assert layers_save(config, shape, checkpointed) == 5 * 2 * 10 * 64 * 4
    assert layers_save(config, shape, CPU) == 5 * 2 * 10 * 4 * (12 * 64 + 3 * 96)
    assert layer_at_work(config, shape, checkpointed) > layer_at_work(config, shape, CPU)
    # Elsewhere fewer of the hidden size and more of the MLP's; in bf16 what LoRA multiplies is there in fp32.
    narrow = replace(CPU, cpu=False, dtype="bfloat16")
    assert layers_save(config, shape, narrow) == 5 * 2 * 10 * (2 * (7 * 64 + 4 * 96) + 4 * (3 * 64 + 96))


def test_memory_grows_with_depth_by_what_is_counted() -> None:
    """MLX's own count of the peak of a real step, at two depths: what is evaluated at once leaves nothing to chance."""
    mx = pytest.importorskip("mlx.core")
    if mx.default_device() != mx.cpu:
        pytest.skip("counted where the operations of `backend_mlx.cpu` compute")
    from mlx_phi3v.backend_mlx.speed import memory_in_use, random_model

    tokens, tiny_tower = 128, VisionArgs(32, 64, 2, 2, patch_size=84)
    for again in (False, True):
        training, peaks = replace(CPU, grad_checkpoint=again), {}
        for layers in (3, 6):  # with two the peak of a checkpointed step is in the first, whose input takes no gradient
            config = ModelArgs(300, 256, 512, layers, 4, 4, vision=tiny_tower)
            backend = random_model(config, "float32")
            backend.set_adapter(FROZEN, init_adapter(config, FROZEN, 0), trainable=True)
            backend.start_training(OptimizerArgs(), grad_checkpoint=again)
            ids = np.arange(tokens) % 300
            batch = collate([Example("a", ids, np.where(ids < 100, IGNORE, ids), ())], config)
            held = memory_in_use()
            backend.accumulate(batch)
            peaks[config] = backend.peak_memory() - held
        (few, less), (many, more) = peaks.items()
        shape = BatchShape(1, tokens, 0, 28)
        expected = footprint(many, shape, training).activations - footprint(few, shape, training).activations
        # Each of some 15 arrays a layer is rounded up to whole pages, and GRADIENT has a tenth more than the gradients.
        assert more - less == pytest.approx(expected, rel=0.1)


def test_a_frozen_tower_is_done_before_the_decoder_saves_anything() -> None:
    few, many = BatchShape(1, 200, 5, 40), BatchShape(1, 2550, 5, 40)
    encoded, cached = (replace(CPU, encode=encode) for encode in (True, False))
    assert footprint(TWO, few, encoded).total > footprint(TWO, few, cached).total
    assert footprint(TWO, many, encoded).total == footprint(TWO, many, cached).total


def test_packed_weights_of_a_layer_are_unpacked_on_a_cpu_alone() -> None:
    packed, shape = replace(TWO, quantization=Quantization(64, 4)), BatchShape(1, 200, 0, 40)
    assert layer_at_work(packed, shape, CPU) > layer_at_work(TWO, shape, CPU)
    assert layer_at_work(packed, shape, GPU) == layer_at_work(TWO, shape, GPU)


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("bits", [0, 8], ids=["plain", "packed"])
def test_a_step_of_an_answer_takes_the_layers_that_are_counted(bits: int, compiled: bool) -> None:
    """MLX's own count of the peak of a token's step in which the cache makes room, above what is cached then."""
    mx = pytest.importorskip("mlx.core")
    from mlx_phi3v.backend_mlx.backend import MLXBackend
    from mlx_phi3v.backend_mlx.model import Phi3VForCausalLM

    tokens, heads, width = 8192, 4, 32
    config = ModelArgs(64, heads * width, 64, 3, heads, heads, vision=VisionArgs(32, 64, 1, 2, patch_size=42))
    model = Phi3VForCausalLM(config)
    mx.eval(model.parameters())
    backend = MLXBackend(model, config, Path(), "float32", bits, compiled)
    cache = backend._cache(np.ones((1, 0), bool))
    cache.append(tokens)
    for layer in cache.layers:
        layer.update_and_fetch(*mx.random.normal((2, 1, heads, tokens, width)))
        mx.eval(layer.arrays)
    held, before, peaks = mx.get_active_memory(), cache.nbytes(), []
    for _ in range(2):
        mx.reset_peak_memory()
        backend.decode(cache, np.array([5])).numpy()
        peaks.append(mx.get_peak_memory() - held - (cache.nbytes() - before))
    # A prompt twice as long differs by as many keys and values, and by what is at work for them.
    both = [answer_bytes(config, times * tokens, "float32", bits, compiled=compiled) for times in (1, 2)]
    estimate = both[1] - both[0] - kv_bytes(config, tokens, 4, bits)
    # Of arrays that move MLX allocates one ahead or not, as its threads come.
    assert 0.45 * estimate < max(peaks) < 1.1 * estimate
