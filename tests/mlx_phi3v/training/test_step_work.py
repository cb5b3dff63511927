"""The work of a step is the products of its shapes, and its time what a machine takes for each kind of work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_phi3v.adapters import LANGUAGE, LM_HEAD, PROJECTOR, AdapterArgs
from mlx_phi3v.config import ModelArgs, Quantization, VisionArgs
from mlx_phi3v.training.step_shape import BatchShape, StepSettings
from mlx_phi3v.training.step_work import Speed, Work, step_flops, step_seconds, step_work

CONFIG = ModelArgs(1000, 64, 96, 3, 4, 4, vision=VisionArgs(32, 48, 3, 2, patch_size=84))
SHAPE = BatchShape(rows=2, tokens=10, crops=4, labels=5)
FROZEN = StepSettings(AdapterArgs(r=2, target_modules=LANGUAGE), "float32", False)
ALL = StepSettings(AdapterArgs(r=2), "float32", False)

QKV = 2 * 20 * 64 * 192
PRODUCTS = sum(2 * 20 * a * b for a, b in ((64, 192), (64, 64), (64, 192), (96, 64)))  # in, out: qkv, o, gate and up, down
ATTENTION = 2 * 2 * (2 * 10 * 10 * 64) // 2  # of a layer, forward: two products, half of which is hidden
LORA = sum(2 * 20 * 2 * (a + b) for a, b in ((64, 192), (64, 64), (64, 192), (96, 64)))  # of a layer, forward
HEAD = 2 * 10 * 64 * 1000
POSITIONS = 17
BLOCK = 2 * POSITIONS * (4 * 32 * 32 + 2 * 32 * 48)  # a tower layer and crop, forward, and its attention
BLOCK_ATTENTION = 2 * 2 * POSITIONS * POSITIONS * 32
BLOCK_LORA = 2 * POSITIONS * 2 * (4 * 2 * 32 + 2 * (32 + 48))
PROJECTION = 2 * 4 * 4 * (128 * 64 + 64 * 64)


def test_a_frozen_weight_takes_two_products_and_the_first_one_needs_no_gradient_of_its_input() -> None:
    work = step_work(CONFIG, SHAPE, FROZEN)
    assert work.language == 2 * 3 * PRODUCTS - QKV + 3 * 3 * LORA + 2 * HEAD
    assert work.attention == 3 * 3 * ATTENTION
    assert work.tower == 4 * 2 * (BLOCK + BLOCK_ATTENTION) + PROJECTION
    assert work.unpacked == 0
    assert step_flops(CONFIG, SHAPE, FROZEN) == (work.language + work.attention, work.tower)


def test_checkpointing_adds_a_forward_pass_of_the_layers_and_of_a_tower_that_trains() -> None:
    once, twice = (step_work(CONFIG, SHAPE, replace(ALL, grad_checkpoint=again)) for again in (False, True))
    assert once.language == 2 * 3 * PRODUCTS + 3 * 3 * LORA + 2 * HEAD  # the image side needs the gradient of the first input
    assert twice.language - once.language == 3 * (PRODUCTS + LORA)
    assert twice.attention - once.attention == 3 * ATTENTION
    assert once.tower == 4 * 2 * (2 * BLOCK + 3 * BLOCK_ATTENTION + 3 * BLOCK_LORA) + 2 * PROJECTION
    assert twice.tower - once.tower == 4 * 2 * (BLOCK + BLOCK_ATTENTION + BLOCK_LORA)


def test_a_projector_that_trains_alone_leaves_the_tower_frozen() -> None:
    projector = replace(FROZEN, adapter=replace(FROZEN.adapter, target_modules=(*LANGUAGE, *PROJECTOR)), grad_checkpoint=True)
    assert step_work(CONFIG, SHAPE, projector).tower == 4 * 2 * (BLOCK + BLOCK_ATTENTION) + 2 * PROJECTION


def test_what_is_not_computed_is_not_counted() -> None:
    assert step_work(CONFIG, SHAPE, replace(ALL, encode=False)).tower == 0
    assert step_work(CONFIG, replace(SHAPE, crops=0), ALL).tower == 0
    head = replace(FROZEN, adapter=replace(FROZEN.adapter, modules_to_save=LM_HEAD))
    assert step_work(CONFIG, SHAPE, head).language - step_work(CONFIG, SHAPE, FROZEN).language == HEAD


@pytest.mark.parametrize(("checkpointing", "times"), [(False, 2), (True, 3)])
def test_packed_weights_are_unpacked_for_every_pass_on_a_cpu_alone(checkpointing: bool, times: int) -> None:
    packed = replace(CONFIG, quantization=Quantization(32, 4))
    training = replace(FROZEN, grad_checkpoint=checkpointing)
    assert step_work(packed, SHAPE, replace(training, cpu=True)).unpacked == times * 3 * PRODUCTS // 40
    assert step_work(packed, SHAPE, training).unpacked == 0
    assert step_work(packed, SHAPE, training).language == step_work(CONFIG, SHAPE, training).language


def test_seconds_are_those_of_each_kind_of_work() -> None:
    speed = Speed(gflops=100, language_share=0.5, attention_share=0.25, tower_share=0.2, unpacked=2)
    assert step_seconds(Work(1e11, 0, 0, 0), speed) == pytest.approx(2)
    assert step_seconds(Work(0, 1e11, 0, 0), speed) == pytest.approx(4)
    assert step_seconds(Work(0, 0, 1e11, 0), speed) == pytest.approx(5)
    assert step_seconds(Work(0, 0, 0, 1e9), speed) == pytest.approx(0.5)
    assert step_seconds(Work(0, 0, 0, 1e9), replace(speed, unpacked=None)) == 0
    assert step_seconds(Work(1e11, 1e11, 1e11, 1e9), speed) == pytest.approx(11.5)
