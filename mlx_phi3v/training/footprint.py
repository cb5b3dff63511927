"""Estimates of the memory of a training step on MLX, from shapes alone.

What the backward pass needs of each layer is counted: see `_layer_saves`. What one layer has at work beside it is measured:
`scripts/measure/measure_memory.py fit` prints it at the published width, and `check` compares whole estimates with measured
peaks. Letters: H hidden size, I MLP width, T tokens of the longest row, C and M width and MLP width of the tower, S positions
of a crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..adapters import AdapterArgs, adapter_shapes
from ..buckets import crop_bucket, token_bucket
from ..checkpoint.layout import CLIP, expected_tensors, is_quantized, is_unused
from ..chunks import CHUNK
from ..config import CROP_SIZE, CROPS_AT_ONCE, LABELS_AT_ONCE, ModelArgs
from ..kv_cache import kv_bytes
from .row_lengths import RowLengths
from .train_config import TrainConfig

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

    @property
    def ours(self) -> bool:
        """Whether the operations of `backend_mlx.cpu` compute it: in fp32, on a CPU."""
        return self.cpu and self.dtype == "float32"


def step_settings(config: TrainConfig, adapter: AdapterArgs | None = None) -> StepSettings:
    """The settings that decide the run's memory and time. adapter: the one trained, if it is not the one they describe."""
    return StepSettings(
        adapter or config.adapter(), config.dtype or "bfloat16", config.grad_checkpoint, encode=config.feature_cache is None
    )


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


# Bytes beside MLX's arrays: Python, its packages, buffers that MLX holds back; `measure_memory.py check`.
INTERPRETER = 450_000_000


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
    trained = adapter_parameters(config, training.adapter)
    logits = _logit_rows(shape.labels * shape.rows) * config.vocab_size * 4
    language = layers_save(config, shape, training) + layer_at_work(config, shape, training) + logits
    tower = _tower_at_work(config, shape, training)
    # The tower is first forward and last backward: then the decoder's layers hold nothing.
    step = _tower_saves(config, shape, training) + max(language, tower) + 4 * trained * GRADIENT
    # What trains in full is there once, in fp32, as part of the adapter.
    in_full = ITEM_SIZE[training.dtype] * sum(map(math.prod, adapter_shapes(config, training.adapter).saved.values()))
    weights = weight_bytes(config, training.dtype) - in_full
    largest = max(map(math.prod, adapter_shapes(config, training.adapter).tensors.values()))
    update = 4 * (UPDATE * trained + LARGEST * largest)
    return Footprint(weights, 3 * 4 * trained, int(max(step * training.activations, update)))


def _logit_rows(labels: int) -> int:
    """Positions' logits in memory, with what is computed of them. Of chunks MLX holds as many as it computes ahead."""
    return 3 * labels if labels <= LABELS_AT_ONCE else min(4 * labels, 9 * LABELS_AT_ONCE)


def layers_save(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that the decoder's layers save for the backward pass.

    A checkpointed layer saves its input alone. The last of them is at work when the most is saved.
    """
    tokens = config.num_hidden_layers * shape.rows * shape.tokens
    if training.grad_checkpoint:
        return tokens * ITEM_SIZE[training.dtype] * config.hidden_size
    return tokens * _layer_saves(config, training)


def layer_at_work(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that one decoder layer takes beside what is saved, forward and backward."""
    widths = (config.hidden_size, config.intermediate_size)
    token = ITEM_SIZE[training.dtype] * _dot(LAYER_AT_WORK[training.ours, training.grad_checkpoint], widths)
    token += _layer_saves(config, training) if training.grad_checkpoint else 0.0
    return shape.rows * shape.tokens * token + _unpacked(config, training)


def _layer_saves(config: ModelArgs, training: StepSettings) -> float:
    """Bytes per token that a decoder layer saves without checkpointing.

    What the gradients of norms, RoPE, attention, SwiGLU and LoRA need: the layer's input, the sum after attention, q, k, v,
    SwiGLU's input, and the inputs of the four projections, which LoRA takes in fp32. On a CPU what is computed while a gradient
    is recorded stays: q and k also before RoPE, and both summands of each sum. On a GPU v is a view of what qkv_proj gave,
    which stays whole, and SwiGLU is not one operation: it saves its sigmoid and a product.
    """
    item, hidden, inner = ITEM_SIZE[training.dtype], config.hidden_size, config.intermediate_size
    attended, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    projected = 2 * hidden + attended + inner
    if training.ours:
        values = 4 * hidden + 2 * attended + 3 * keys + 2 * inner
    else:
        values = 2 * hidden + 2 * attended + 3 * keys + 4 * inner
    return float(item * values + (4 + _mask_bytes(training)) * projected)


def _mask_bytes(training: StepSettings) -> int:
    """Of each number that LoRA multiplies: on a CPU dropout keeps which of them it dropped."""
    return int(training.ours and training.adapter.lora_dropout > 0)


def _tower_saves(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that the layers of a tower that trains save."""
    if not (_encodes(shape, training) and _trains_tower(config, training.adapter)):
        return 0.0
    positions = config.vision.used_layers * shape.crops * _positions(config)
    if training.grad_checkpoint:
        return positions * ITEM_SIZE[training.dtype] * config.vision.hidden_size
    return positions * _tower_layer_saves(config, training)


def _tower_layer_saves(config: ModelArgs, training: StepSettings) -> float:
    """`_layer_saves` of a position of a crop, of a tower layer."""
    width, inner = config.vision.hidden_size, config.vision.intermediate_size
    values = 7 * width + inner if training.ours else 5 * width + 2 * inner
    projected = 3 * width + inner
    if training.dtype != "float32":
        projected += 2 * width  # q, k and v each get their input in fp32
    return ITEM_SIZE[training.dtype] * values + (4 + _mask_bytes(training)) * projected


def _tower_at_work(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that one tower layer takes beside what is saved, and the crops; a frozen tower takes a few crops at a time."""
    if not _encodes(shape, training):
        return 0.0
    vision, how = config.vision, training.grad_checkpoint if _trains_tower(config, training.adapter) else None
    crops = shape.crops if how is not None else min(shape.crops, CROPS_AT_ONCE)
    position = ITEM_SIZE[training.dtype] * TOWER_AT_WORK[training.ours, how] * vision.intermediate_size
    position += _tower_layer_saves(config, training) if how else 0.0
    return crops * _positions(config) * position + PIXELS * shape.crops * 3 * CROP_SIZE**2 * ITEM_SIZE[training.dtype]


def _encodes(shape: BatchShape, training: StepSettings) -> bool:
    return training.encode and shape.crops > 0


def _positions(config: ModelArgs) -> int:
    return config.vision.grid**2 + 1


def _trains_tower(config: ModelArgs, adapter: AdapterArgs) -> bool:
    """Whether the tower's layers train; projector and separators alone leave it frozen."""
    return any(name.startswith(CLIP) for name in adapter_shapes(config, adapter).modules)


def _dot(factors: tuple[float, ...], widths: tuple[int, ...]) -> float:
    return sum(a * b for a, b in zip(factors, widths, strict=True))


def _unpacked(config: ModelArgs, training: StepSettings) -> float:
    """Bytes of the quantised weights that a CPU has unpacked at a time: the largest of a layer."""
    if not (config.quantization and training.cpu):
        return 0.0
    largest = max(math.prod(shape) for name, shape in expected_tensors(config).items() if is_quantized(name))
    return float(largest * ITEM_SIZE[training.dtype])


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


# Values per token that one decoder layer has at work beside what it saves, times H and I, by (CPU, checkpointing).
LAYER_AT_WORK = {(True, False): (15.0, 0.0), (True, True): (18.2, 0.0), (False, False): (7.5, 6.75), (False, True): (7.5, 6.75)}
# Likewise per position of a tower layer, times M, by (CPU, checkpointing); None: it does not train.
TOWER_AT_WORK = {(True, None): 5.75, (True, False): 4.9, (True, True): 5.75,
                 (False, None): 9.55, (False, False): 6.6, (False, True): 6.6}  # fmt: skip
PIXELS = 2.0  # values per pixel and channel, of the crops themselves and their patches
# Floats per trained parameter beside it and its moments, in a pass and in an update, and of the largest tensor in an update.
GRADIENT, UPDATE, LARGEST = 1.1, 3.1, 2.9
