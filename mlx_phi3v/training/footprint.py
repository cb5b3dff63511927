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
from ..buckets import label_bucket
from ..checkpoint.layout import CLIP, expected_tensors, is_quantized, is_unused
from ..chunks import CHUNK
from ..config import CROP_SIZE, CROPS_AT_ONCE, LABELS_AT_ONCE, ModelArgs
from ..kv_cache import kv_bytes
from .step_shape import ITEM_SIZE, BatchShape, StepSettings, computed


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
    trained, shape = adapter_parameters(config, training.adapter), computed(config, shape, training)
    labels = shape.labels * shape.rows
    logits = _logit_rows(label_bucket(labels) if training.compiled else labels) * config.vocab_size * 4
    language = layers_save(config, shape, training) + layer_at_work(config, shape, training) + logits
    tower = _tower_at_work(config, shape, training)
    # The tower is first forward and last backward: then the decoder's layers hold nothing.
    step = _tower_saves(config, shape, training) + max(language, tower) + 4 * trained * GRADIENT
    # What trains in full is there once, in fp32, as part of the adapter.
    in_full = ITEM_SIZE[training.dtype] * sum(map(math.prod, adapter_shapes(config, training.adapter).saved.values()))
    weights = weight_bytes(config, training.dtype) - in_full
    largest = max(map(math.prod, adapter_shapes(config, training.adapter).tensors.values()))
    update = 4 * (UPDATE * trained + LARGEST * largest)
    step *= training.activations * (1.0 if training.foreseen else NOT_FORESEEN)
    return Footprint(weights, 3 * 4 * trained, int(max(step, update)))


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
    return tokens * _layer_saves(config, shape, training)


def layer_at_work(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that one decoder layer takes beside what is saved, forward and backward."""
    how = "mlx, packed" if training.kernels == "mlx" and config.quantization else training.kernels, training.grad_checkpoint
    widths = (config.hidden_size, config.intermediate_size, config.num_attention_heads * shape.tokens)
    tokens = shape.rows * shape.tokens * ITEM_SIZE[training.dtype] * _dot(LAYER_AT_WORK[how], widths)
    unpacked = UNPACKED.get(how, 1.0) * _largest_packed(config, training)
    # MLX's own operations take a layer's products in turn, so that nothing else is at work beside what is unpacked.
    at_work = max(tokens, unpacked) if how == ("mlx, packed", False) else tokens + unpacked
    return at_work + shape.rows * shape.tokens * _layer_saves(config, shape, training) * training.grad_checkpoint


def _layer_saves(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes per token that a decoder layer saves without checkpointing.

    What the gradients of norms, RoPE, attention, SwiGLU and LoRA need: the layer's input, the sum after attention, q, k, v,
    SwiGLU's input, and the inputs of the four projections, which LoRA takes in fp32. On a CPU what is computed while a gradient
    is recorded stays: q and k also before RoPE, and both summands of each sum. Elsewhere v is a view of what qkv_proj gave,
    which stays whole, and SwiGLU is not one operation: it saves its sigmoid and a product. MLX's own attention on a CPU saves
    its probabilities, of each head and token for all tokens.
    """
    item, hidden, inner = ITEM_SIZE[training.dtype], config.hidden_size, config.intermediate_size
    attended, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    projected = 2 * hidden + attended + inner
    if training.kernels == "ours":
        values = 4 * hidden + 2 * attended + 3 * keys + 2 * inner
    else:
        values = 2 * hidden + 2 * attended + 3 * keys + 4 * inner
    values += _probabilities(config.num_attention_heads, shape.tokens, training)
    return float(item * values + (4 + _mask_bytes(training)) * projected)


def _probabilities(heads: int, keys: int, training: StepSettings) -> int:
    """Values that attention saves for each query."""
    return heads * keys if training.kernels == "mlx" else 0


def _mask_bytes(training: StepSettings) -> int:
    """Of each number that LoRA multiplies: on a CPU dropout keeps which of them it dropped."""
    return int(training.kernels == "ours" and training.adapter.lora_dropout > 0)


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
    values = 7 * width + inner if training.kernels == "ours" else 5 * width + 2 * inner
    values += _probabilities(config.vision.num_attention_heads, _positions(config), training)
    projected = 3 * width + inner
    if training.dtype != "float32":
        projected += 2 * width  # q, k and v each get their input in fp32
    return ITEM_SIZE[training.dtype] * values + (4 + _mask_bytes(training)) * projected


def _tower_at_work(config: ModelArgs, shape: BatchShape, training: StepSettings) -> float:
    """Bytes that one tower layer takes beside what is saved, and the crops; a frozen tower takes a few crops at a time."""
    if not _encodes(shape, training):
        return 0.0
    vision, how = config.vision, training.grad_checkpoint if _trains_tower(config, training.adapter) else None
    if how is None:  # a compiled step encodes photos beside what is compiled
        training = replace(training, compiled=False)
    crops = shape.crops if how is not None else min(shape.crops, CROPS_AT_ONCE)
    widths = (vision.intermediate_size, vision.num_attention_heads * _positions(config))
    position = ITEM_SIZE[training.dtype] * _dot(TOWER_AT_WORK[training.kernels, how], widths)
    position += _tower_layer_saves(config, training) if how else 0.0
    return crops * _positions(config) * position + PIXELS * shape.crops * 3 * CROP_SIZE**2 * ITEM_SIZE[training.dtype]


def _encodes(shape: BatchShape, training: StepSettings) -> bool:
    return training.encode and shape.crops > 0


def _positions(config: ModelArgs) -> int:
    return config.vision.grid**2 + 1


def _trains_tower(config: ModelArgs, adapter: AdapterArgs) -> bool:
    """Whether the tower's layers train; projector and separators alone leave it frozen."""
    return adapter_shapes(config, adapter).any_in(CLIP)


def _dot(factors: tuple[float, ...], widths: tuple[int, ...]) -> float:
    return sum(a * b for a, b in zip(factors, widths, strict=True))


def _largest_packed(config: ModelArgs, training: StepSettings) -> float:
    """Bytes of the largest quantised weight of a layer when a CPU has it unpacked; elsewhere none is."""
    if not (config.quantization and training.cpu):
        return 0.0
    largest = max(math.prod(shape) for name, shape in expected_tensors(config).items() if is_quantized(name))
    return float(largest * ITEM_SIZE[training.dtype])


def answer_bytes(config: ModelArgs, tokens: int, dtype: str, kv_bits: int = 0, *, compiled: bool = False) -> int:
    """Peak memory of answering one prompt of so many tokens, its photos' pixels aside: weights, keys and values, a chunk.

    compiled: whether the step of a token is. A layer's keys and values move to larger arrays from time to time, and packed ones
    are unpacked at every step.
    """
    item = ITEM_SIZE[dtype]
    at_work = LAYERS_AT_WORK[bool(kv_bits), compiled] * kv_bytes(config, tokens, item) / config.num_hidden_layers
    numbers = 4 * config.hidden_size + 2 * config.qkv_size + 3 * config.intermediate_size  # of a token in one layer
    chunk = min(tokens, CHUNK) * numbers * item
    return int(weight_bytes(config, dtype) + kv_bytes(config, tokens, item, kv_bits) + at_work + chunk)


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


# Values per token that one decoder layer has at work beside what it saves, times H, I and heads x T, by checkpointing.
LAYER_AT_WORK = {
    ("ours", False): (15.0, 0.0, 0.0), ("ours", True): (18.2, 0.0, 0.0),
    ("mlx", False): (15.0, 6.75, 2.4), ("mlx", True): (25.0, 11.75, 2.0),  # what it saves is there twice
    ("mlx, packed", False): (0.0, 7.0, 2.0), ("mlx, packed", True): (15.0, 6.75, 1.0),
    ("accelerator", False): (7.5, 6.75, 0.0), ("accelerator", True): (7.5, 6.75, 0.0),
}  # fmt: skip
# Unpacked weights at a time, where it is not one.
UNPACKED = {("mlx, packed", False): 2.3, ("mlx, packed", True): 3.1}
# Values per position of a tower layer at work, times M and heads x S; None: it does not train.
TOWER_AT_WORK = {
    ("ours", None): (5.75, 0.0), ("ours", False): (4.9, 0.0), ("ours", True): (5.75, 0.0),
    ("mlx", None): (9.55, 2.4), ("mlx", False): (6.6, 2.4), ("mlx", True): (11.6, 2.0),
    ("accelerator", None): (9.55, 0.0), ("accelerator", False): (6.6, 0.0), ("accelerator", True): (6.6, 0.0),
}  # fmt: skip
# Layers' keys and values, as computed, at work beside those that are cached, by (packed, compiled step): at most, on a CPU.
LAYERS_AT_WORK = {(False, False): 2.0, (False, True): 2.0, (True, False): 3.0, (True, True): 3.7}
PIXELS = 2.0  # values per pixel and channel, of the crops themselves and their patches
# A compiled step of an accelerator was not measured. On a CPU torch's took at most 1.11 of an uncompiled one of the same shape.
NOT_FORESEEN = 1.12
# Floats per trained parameter beside it and its moments, in a pass and in an update, and of the largest tensor in an update.
GRADIENT, UPDATE, LARGEST = 1.1, 3.1, 2.9
