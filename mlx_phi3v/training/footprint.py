"""Estimates of the memory and arithmetic of a training step on MLX, from shapes alone.

The memory model is linear: floats per token and layer, fitted to MLX's own count of peak memory on small models by
`scripts/measure/measure_memory.py fit`, which prints the constants below and their worst error; `check` compares them with any
checkpoint. Letters: L layers, H hidden size, I MLP width, T tokens of the longest row, S positions of a crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..adapters import AdapterArgs, adapter_shapes
from ..buckets import crop_bucket, token_bucket
from ..checkpoint.layout import expected_tensors, is_quantized, is_unused
from ..chunks import CHUNK
from ..config import CROP_SIZE, CROPS_AT_ONCE, LABELS_AT_ONCE, ModelArgs
from ..kv_cache import kv_bytes
from .row_lengths import RowLengths

ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class BatchShape:
    """What one pass computes: rows, tokens of the longest row, crops to encode in all, labels of a row."""

    rows: int
    tokens: int
    crops: int
    labels: int = 64


def largest_batch(lengths: RowLengths, batch_size: int, *, compiled: bool = False) -> BatchShape:
    """The largest batch that can come of rows of these lengths; padded to a bucket where the step is `compiled`.

    Every row in it is as long as the longest, and has as many crops as the one with most.
    """
    tokens, labels, crops = (int(values.max(initial=0)) for values in (lengths.tokens, lengths.labels, lengths.crops))
    if compiled:
        return BatchShape(batch_size, token_bucket(tokens), crop_bucket(crops * batch_size), labels)
    return BatchShape(batch_size, tokens, crops * batch_size, labels)


@dataclass(frozen=True)
class StepSettings:
    """The settings of a run that decide its footprint. encode: the tower runs in the step; cpu: MLX on a CPU.

    activations: what this machine takes of the estimated bytes, where that was measured (`calibration`).
    """

    adapter: AdapterArgs
    dtype: str
    grad_checkpoint: bool
    encode: bool = True
    cpu: bool = False
    activations: float = 1.0


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a training step in bytes, by what it holds."""

    weights: int
    adapter: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, as MLX counts it: without the interpreter (see `INTERPRETER`)."""
        return self.weights + self.adapter + self.activations


INTERPRETER = 350_000_000  # bytes of Python and its packages, beside MLX's arrays; `measure_memory.py check`


@dataclass(frozen=True)
class Cost:
    """Floats per token (or position): saved in each layer for the backward pass, and in use in one layer at a time.

    Each is a triple: times the width, times the MLP's width, times heads * (tokens or positions).
    """

    saved: tuple[float, float, float]
    working: tuple[float, float, float]
    pixels: float = 0.0  # floats per pixel and channel, for the crops themselves and the patches made of them


def weight_bytes(config: ModelArgs, dtype: str) -> int:
    """The base model in memory: quantised weights packed, with their scales and biases, all else in `dtype`."""
    size, quantization = ITEM_SIZE[dtype], config.quantization
    total = 0.0
    for name, shape in expected_tensors(config).items():
        if is_unused(name, config):
            continue
        per_weight: float = size
        if quantization and is_quantized(name):
            per_weight = quantization.bits / 8 + 2 * size / quantization.group_size
        total += math.prod(shape) * per_weight
    return int(total)


def adapter_parameters(config: ModelArgs, adapter: AdapterArgs) -> int:
    """Trained parameters."""
    return sum(math.prod(shape) for shape in adapter_shapes(config, adapter).tensors.values())


def footprint(config: ModelArgs, shape: BatchShape, training: StepSettings) -> Footprint:
    """Peak memory of one forward and backward pass and of the update after it."""
    vision, item = config.vision, ITEM_SIZE[training.dtype]
    trained = adapter_parameters(config, training.adapter)
    tokens = shape.rows * shape.tokens
    saved, working = _floats(
        LANGUAGE_COSTS[training.grad_checkpoint],
        (config.hidden_size, config.intermediate_size, config.num_attention_heads * shape.tokens),
    )
    language_saved, language_working = config.num_hidden_layers * tokens * saved, tokens * working
    tower_saved = tower_working = 0.0
    if training.encode and shape.crops:
        positions = vision.grid**2 + 1
        how = training.grad_checkpoint if training.adapter.trains_image_side(config) else None
        widths = (vision.hidden_size, vision.intermediate_size, vision.num_attention_heads * positions)
        saved, working = _floats(TOWER_COSTS[how], widths)
        tower_saved = vision.used_layers * shape.crops * positions * saved
        at_once = min(shape.crops, CROPS_AT_ONCE) if how is None else shape.crops
        tower_working = at_once * positions * working + shape.crops * 3 * CROP_SIZE**2 * TOWER_COSTS[how].pixels
    logits = _logit_rows(shape.labels * shape.rows) * config.vocab_size * 4
    step = item * (language_saved + tower_saved + max(language_working, tower_working)) + logits + 4 * trained * GRADIENT
    step += _unpacked(config, training)
    return Footprint(
        weight_bytes(config, training.dtype), 3 * 4 * trained, int(max(step * training.activations, 4 * trained * UPDATE))
    )


def _logit_rows(labels: int) -> int:
    """Positions' logits in memory, with what is computed of them. Of chunks MLX holds as many as it computes ahead."""
    return 3 * labels if labels <= LABELS_AT_ONCE else min(4 * labels, 9 * LABELS_AT_ONCE)


def _floats(cost: Cost, widths: tuple[int, int, int]) -> tuple[float, float]:
    saved, working = (sum(a * b for a, b in zip(factors, widths)) for factors in (cost.saved, cost.working))
    return saved, working


def _unpacked(config: ModelArgs, training: StepSettings) -> int:
    """Bytes of the quantised weights that a CPU unpacks at a time: one layer's."""
    if not (config.quantization and training.cpu):
        return 0
    packed = sum(math.prod(shape) for name, shape in expected_tensors(config).items() if is_quantized(name))
    return packed * ITEM_SIZE[training.dtype] // config.num_hidden_layers


def answer_bytes(config: ModelArgs, tokens: int, dtype: str, kv_bits: int = 0) -> int:
    """Peak memory of answering one prompt of so many tokens, its photos' pixels aside: weights, keys and values, a chunk.

    Packed keys and values are unpacked a layer at a time.
    """
    item = ITEM_SIZE[dtype]
    unpacked = kv_bytes(config, tokens, item) // config.num_hidden_layers if kv_bits else 0
    numbers = 4 * config.hidden_size + 2 * config.qkv_size + 3 * config.intermediate_size  # of a token in one layer
    chunk = min(tokens, CHUNK) * numbers * item
    return weight_bytes(config, dtype) + kv_bytes(config, tokens, item, kv_bits) + unpacked + chunk


def fits(config: ModelArgs, shape: BatchShape, training: StepSettings, limit: int) -> bool:
    """Whether a step with these settings stays within `limit` bytes, the interpreter included."""
    return footprint(config, shape, training).total + INTERPRETER <= limit


def fit_to_limit(config: ModelArgs, shape: BatchShape, training: StepSettings, limit: int) -> tuple[int, bool] | None:
    """(rows per pass, gradient checkpointing) that stay within `limit` bytes; None if nothing does.

    The rows of a step are split into accumulated passes, so its gradient stays the same. More passes cost little time,
    checkpointing costs a third more, so more passes are tried first.
    """
    for grad_checkpoint in sorted({training.grad_checkpoint, True}):
        rows = shape.rows
        while rows:
            passes = math.ceil(shape.rows / rows)
            one_pass = replace(shape, rows=rows, crops=math.ceil(shape.crops / passes))
            if fits(config, one_pass, replace(training, grad_checkpoint=grad_checkpoint), limit):
                return rows, grad_checkpoint
            rows = max((r for r in range(1, rows) if shape.rows % r == 0), default=0)
    return None


def step_flops(config: ModelArgs, shape: BatchShape, training: StepSettings) -> tuple[float, float]:
    """Floating-point operations of one step in (language, tower), two per multiply-add.

    A frozen weight needs the forward product and the gradient of its input; a tower that does not train the forward
    one only; checkpointing adds a forward pass. LoRA, norms and softmax are left out (under 2 % at full width).
    """
    hidden, tokens = config.hidden_size, shape.rows * shape.tokens
    weights = config.qkv_size * hidden + hidden * hidden + 3 * hidden * config.intermediate_size
    attention = shape.tokens * hidden  # two products of a causal matrix, half of which is computed
    layer = 2 * tokens * (weights + attention)
    passes = 3 if training.grad_checkpoint else 2
    language = passes * config.num_hidden_layers * layer + 2 * 2 * shape.labels * shape.rows * hidden * config.vocab_size
    if not (training.encode and shape.crops):
        return language, 0.0
    vision = config.vision
    positions, width = vision.grid**2 + 1, vision.hidden_size
    block = 2 * positions * width * (4 * width + 2 * vision.intermediate_size + 2 * positions)
    projector = 2 * shape.crops * vision.merged_grid**2 * (4 * width * hidden + hidden * hidden)
    tower = shape.crops * vision.used_layers * block + projector
    return language, tower * (passes if training.adapter.trains_image_side(config) else 1)


# Printed by `python scripts/measure/measure_memory.py fit` on a CPU.
LANGUAGE_COSTS = {  # by checkpointing
    False: Cost((7.80, 4.26, 0.83), (30.33, 0.0, 0.0)),
    True: Cost((0.0, 1.76, 0.0), (45.33, 4.11, 1.77)),
}
TOWER_COSTS = {  # likewise; None: it does not train
    None: Cost((0.0, 0.0, 0.0), (0.0, 2.72, 3.03), 2.61),
    False: Cost((7.14, 4.10, 0.90), (0.0, 0.0, 2.28), 0.72),
    True: Cost((1.49, 0.13, 0.0), (0.0, 11.69, 3.93), 0.21),
}
GRADIENT, UPDATE = 1.1, 2.27  # floats per trained parameter beside it and its two moments, in a pass and in an update
