"""The arithmetic of a training step from shapes, and the seconds it takes on a machine whose speed is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..adapters import adapter_shapes
from ..calibration import Calibration
from ..checkpoint.layout import CLIP, VISION
from ..config import ModelArgs
from .step_shape import BatchShape, StepSettings, computed


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a pass, two per multiply-add, and the packed weights that a CPU unpacks for it.

    language: products with weights, LoRA's included; attention: the language model's; tower: tower and projector.
    """

    language: float
    attention: float
    tower: float
    unpacked: float

    @property
    def flops(self) -> float:
        """All operations."""
        return self.language + self.attention + self.tower


@dataclass(frozen=True)
class Speed:
    """What a machine reaches: GFLOP/s of matrix products, the shares of them by part of `Work`, 1e9 weights unpacked a second.

    unpacked: None where packed weights are multiplied as they are, as fast as others.
    """

    gflops: float
    language_share: float
    attention_share: float
    tower_share: float
    unpacked: float | None = None


# What x86-64 cores reach: `python scripts/bench/bench.py train` (docs/performance.md), and `doctor`.
LANGUAGE_SHARE, ATTENTION_SHARE, TOWER_SHARE, UNPACKED = 0.68, 0.3, 0.6, 0.3


def machine_speed(gflops: float, known: Calibration | None, *, cpu: bool) -> Speed:
    """What a machine reaches, by its calibration, else by shares that were measured elsewhere. cpu: a step unpacks weights."""
    if known is None:
        return Speed(gflops, LANGUAGE_SHARE, ATTENTION_SHARE, TOWER_SHARE, UNPACKED if cpu else None)
    attention, unpacked = known.attention_share or ATTENTION_SHARE, known.unpacked or UNPACKED
    return Speed(gflops, known.language_share, attention, known.tower_share, unpacked if cpu else None)


def step_work(config: ModelArgs, shape: BatchShape, training: StepSettings) -> Work:
    """The work of one pass, forward and backward.

    A frozen weight needs the forward product and the gradient of its input, checkpointing another forward one. Attention has
    two products forward and four backward. A LoRA matrix needs a product forward, and backward two: its own gradient and its
    input's. Norms, RoPE and activations are left out: they are in the shares of the peak that a step reaches.
    """
    shape = computed(config, shape, training)
    tokens, passes = shape.rows * shape.tokens, 3 if training.grad_checkpoint else 2
    shapes = adapter_shapes(config, training.adapter)
    attended = config.num_attention_heads * config.head_dim
    qkv = config.qkv_size * config.hidden_size
    layer = qkv + config.hidden_size * (attended + 3 * config.intermediate_size)
    products = passes * config.num_hidden_layers * layer
    if not training.encode or not shapes.any_in(VISION):
        products -= qkv  # of the first layer: nothing below it is trained
    products += (passes + 1) * sum(math.prod(shape) for name, shape in _lora(shapes.tensors, "model.layers."))
    head = (3 if "lm_head.weight" in shapes.saved else 2) * shape.labels * shape.rows * config.hidden_size * config.vocab_size
    # Of a causal matrix half is computed.
    attention = (passes + 1) * config.num_hidden_layers * 2 * tokens * shape.tokens * attended
    unpacked = passes * config.num_hidden_layers * layer if config.quantization and training.cpu else 0
    return Work(2 * (tokens * products + head), attention, _tower(config, shape, training), unpacked)


def _tower(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Operations of tower and projector; a frozen one needs the forward products alone."""
    if not (training.encode and shape.crops):
        return 0.0
    vision, shapes = config.vision, adapter_shapes(config, training.adapter)
    again = 2 if training.grad_checkpoint else 1
    passes = 1 + again if shapes.any_in(CLIP) else 1
    positions, width = vision.grid**2 + 1, vision.hidden_size
    block = passes * width * (4 * width + 2 * vision.intermediate_size)
    block += (passes + 1 if passes > 1 else 1) * 2 * positions * width  # attention
    lora = (passes + 1) * sum(math.prod(shape) for _, shape in _lora(shapes.tensors, CLIP))
    trained = shapes.any_in(VISION)
    projector = (2 if trained else 1) * vision.merged_grid**2 * config.hidden_size * (4 * width + config.hidden_size)
    return 2 * shape.crops * (positions * (vision.used_layers * block + lora) + projector)


def _lora(tensors: dict[str, tuple[int, ...]], at: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, shape) for name, shape in tensors.items() if at in name and ".lora_" in name]


def step_flops(config: ModelArgs, shape: BatchShape, training: StepSettings) -> tuple[float, float]:
    """Floating-point operations of one pass in (language model, tower)."""
    work = step_work(config, shape, training)
    return work.language + work.attention, work.tower


def step_seconds(work: Work, speed: Speed) -> float:
    """Seconds of one pass."""
    reached = work.language / speed.language_share + work.attention / speed.attention_share + work.tower / speed.tower_share
    return reached / speed.gflops / 1e9 + (work.unpacked / speed.unpacked / 1e9 if speed.unpacked else 0.0)
