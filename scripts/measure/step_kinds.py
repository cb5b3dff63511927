"""Kinds of training step of random models, which `measure_memory.py` and `measure_plan_time.py` run on MLX.

No checkpoint is read: the weights are drawn here, so that any width, depth, dtype and number of bits can be had.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v import timing
from mlx_phi3v.adapters import LANGUAGE, LM_HEAD, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs, set_up
from mlx_phi3v.batches import Batch
from mlx_phi3v.config import ModelArgs, Quantization, VisionArgs
from mlx_phi3v.training.step_shape import BatchShape, StepSettings

NARROW = ModelArgs(2048, 256, 704, 4, 8, 8, vision=VisionArgs(64, 128, 3, 2, patch_size=42))
TARGETS = {"language": LANGUAGE, "image side too": (*LANGUAGE, *VISION, *PROJECTOR), "projector too": (*LANGUAGE, *PROJECTOR)}


@dataclass(frozen=True)
class Kind:
    """One kind of step. layers: decoder layers of the model, the rest of which has the published shape.

    crops: of the batch; cached: their features are given, so that the tower does not run.
    """

    name: str
    rows: int = 1
    tokens: int = 798
    crops: int = 5
    trains: str = "language"  # of `TARGETS`
    grad_checkpoint: bool = False
    cached: bool = False
    head_in_full: bool = False
    layers: int = 2
    bits: int | None = None
    dtype: str = "float32"
    rank: int = 8
    labels: int = 40  # of a row
    dropout: float = 0.0
    compiled: bool = False
    narrow: bool = False  # not the published shape: a model that takes milliseconds

    def model(self) -> ModelArgs:
        """The published shape with so many decoder layers."""
        quantization = None if self.bits is None else Quantization(64, self.bits)
        base = NARROW if self.narrow else ModelArgs()
        return replace(base, num_hidden_layers=self.layers, quantization=quantization)

    def settings(self, *, cpu: bool) -> StepSettings:
        """As `footprint` takes it."""
        saved = LM_HEAD if self.head_in_full else ()
        adapter = AdapterArgs(self.rank, 2.0 * self.rank, self.dropout, TARGETS[self.trains], saved)
        return StepSettings(adapter, self.dtype, self.grad_checkpoint, encode=not self.cached, cpu=cpu, compiled=self.compiled)

    def shape(self) -> BatchShape:
        """As `footprint` takes it."""
        return BatchShape(self.rows, self.tokens, self.crops, self.labels)


# What people run, at the published width. The last one is the whole model in 4 bits.
KINDS = (
    Kind("language, 1 crop", tokens=348, crops=1),
    Kind("language"),
    Kind("language, checkpointing", grad_checkpoint=True),
    Kind("image side too, 1 crop", tokens=348, crops=1, trains="image side too"),
    Kind("image side too", trains="image side too"),
    Kind("image side too, checkpointing", trains="image side too", grad_checkpoint=True),
    Kind("projector too", trains="projector too"),
    Kind("4 rows, features cached", rows=4, tokens=348, crops=4, cached=True),
    Kind("2,550 tokens, features cached", tokens=2550, crops=17, cached=True),
    Kind("4 bit, features cached", tokens=348, crops=1, bits=4, cached=True),
    Kind("4 bit, checkpointing", bits=4, grad_checkpoint=True, layers=4),
    Kind("8 bit, checkpointing", tokens=348, crops=1, bits=8, grad_checkpoint=True, layers=4),
    Kind("bf16, features cached", tokens=80, crops=1, dtype="bfloat16", cached=True),  # few: a CPU is slow in bf16
    Kind("rank 64, features cached", tokens=348, crops=1, rank=64, cached=True),
    Kind("lm_head in full, features cached", tokens=348, crops=1, head_in_full=True, cached=True),
    Kind("dropout, features cached", tokens=348, crops=1, dropout=0.1, cached=True),
)
# Of which `measure_plan_time.py` takes these, and the frozen tower with fewer crops: it takes most of a step.
TIMED = (
    Kind("language, 1 crop", tokens=348, crops=1),
    Kind("language"),
    Kind("image side too, 1 crop", tokens=348, crops=1, trains="image side too"),
    Kind("features cached", cached=True),
    Kind("features cached, checkpointing", cached=True, grad_checkpoint=True),
    Kind("2,550 tokens, features cached", tokens=2550, crops=17, cached=True),
    Kind("4 bit, features cached", bits=4, cached=True),
    Kind("4 bit, features cached, checkpointing", bits=4, cached=True, grad_checkpoint=True, layers=4),
    Kind("rank 64, features cached", rank=64, cached=True),
)
# Compiled ones, which on a CPU are computed by MLX's own operations.
COMPILED = tuple(
    replace(kind, name=f"{kind.name}, compiled", compiled=True)
    for kind in (
        Kind("348 tokens", tokens=348, crops=1, cached=True), Kind("798 tokens", cached=True),
        Kind("798 tokens, frozen tower"),
        Kind("1,600 tokens", tokens=1600, cached=True), Kind("4 x 348", rows=4, tokens=348, crops=4, cached=True),
        Kind("4 layers", layers=4, cached=True),
        Kind("798 tokens, checkpointing", cached=True, grad_checkpoint=True),
        Kind("1,600 tokens, checkpointing", tokens=1600, cached=True, grad_checkpoint=True),
        Kind("4 layers, checkpointing", layers=4, cached=True, grad_checkpoint=True),
        Kind("image side too", tokens=348, crops=1, trains="image side too"),
        Kind("image side too, 5 crops, checkpointing", trains="image side too", grad_checkpoint=True),
        Kind("4 bit", bits=4, cached=True),
        Kind("4 bit, checkpointing", bits=4, cached=True, grad_checkpoint=True, layers=4),
    )
)  # fmt: skip
FULL = Kind("4 bit, checkpointing, 32 layers", bits=4, grad_checkpoint=True, layers=32)
# What `measure_memory.py fit` looks at: one layer's work, without a tower.
FITTED = tuple(
    Kind(f"{tokens} tokens, {rows} rows{', checkpointing' * again}{f', {bits} bit' if bits else ''}", rows, tokens,
         5 * rows, grad_checkpoint=again, bits=bits, cached=True)
    for again in (False, True) for bits in (None, 4) for rows, tokens in ((1, 348), (1, 798), (1, 1600), (4, 200))
)  # fmt: skip


def _whole(name: str, rows: int, **settings: Any) -> Kind:
    """A kind of the whole model in bf16."""
    return Kind(f"{name}, {rows} rows", rows, 808, 5 * rows, layers=32, dtype="bfloat16", **settings)


ACCELERATOR = (
    _whole("bf16, features cached", 1, cached=True), _whole("bf16, features cached", 8, cached=True),
    _whole("bf16, checkpointing", 8, grad_checkpoint=True), _whole("bf16, image side too", 1, trains="image side too"),
    _whole("bf16, image side too, checkpointing", 8, trains="image side too", grad_checkpoint=True),
    _whole("4 bit, features cached", 1, bits=4, cached=True), _whole("4 bit, checkpointing", 8, bits=4, grad_checkpoint=True),
)  # fmt: skip
SMALL = (
    Kind("narrow, language", tokens=160, narrow=True), Kind("narrow, 4 bit", tokens=160, bits=4, narrow=True),
    Kind("narrow, image side too, checkpointing", tokens=160, trains="image side too", grad_checkpoint=True, narrow=True),
)  # fmt: skip


def random_backend(config: ModelArgs, dtype: str = "float32") -> Any:
    """A model of random weights as it is after loading; layer by layer, so that packing takes little memory."""
    import mlx.core as mx

    from mlx_phi3v.backend_mlx.backend import MLXBackend
    from mlx_phi3v.backend_mlx.model import Phi3VForCausalLM
    from mlx_phi3v.backend_mlx.quantized import quantize_language
    from mlx_phi3v.backend_mlx.speed import draw_weights

    model: Any = Phi3VForCausalLM(config)
    draw_weights(model, dtype)
    if config.quantization:
        quantize_language(model, config.quantization)
    for layer in model.model.layers:
        mx.eval(layer.parameters())
        mx.clear_cache()
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
    return MLXBackend(model, config, Path(), dtype)


def batch(config: ModelArgs, shape: BatchShape, *, cached: bool) -> Batch:
    """Random tokens and crops, or features of as many crops; the first tokens of a row are its photo's."""
    random = np.random.Generator(np.random.PCG64(0))
    ids = random.integers(3, config.vocab_size, (shape.rows, shape.tokens))
    labels = np.full_like(ids, -100)
    labels[:, -shape.labels :] = ids[:, -shape.labels :]
    index = np.full_like(ids, -1)
    pixels, features = np.zeros((0, 3, 336, 336), np.float32), None
    if shape.crops:
        index[:, :8] = np.arange(8) % config.vision.merged_grid**2
        if cached:
            table = shape.crops * config.vision.merged_grid**2 + 2
            features = random.standard_normal((table, config.hidden_size), np.float32)
        else:
            pixels = random.standard_normal((shape.crops, 3, 336, 336), np.float32)
    positions = np.tile(np.arange(shape.tokens), (shape.rows, 1))
    names = tuple(map(str, range(shape.rows)))
    return Batch(names, ids, labels, np.ones(ids.shape, bool), positions, pixels, index, features)


class Steps:
    """A backend that is ready to train; `run` makes a step and returns its seconds and peaks."""

    def __init__(self, backend: Any, shape: BatchShape, settings: StepSettings) -> None:
        import mlx.core as mx

        self.backend, self.cpu = backend, settings.cpu
        backend.set_adapter(settings.adapter, init_adapter(backend.config, settings.adapter, 0), trainable=True)
        backend.start_training(OptimizerArgs(), grad_checkpoint=settings.grad_checkpoint, compiled=settings.compiled)
        mx.eval(backend.model.parameters(), backend.optimizer.state)
        gc.collect()
        self.held = mx.get_active_memory()  # bytes between steps
        self.batch = batch(backend.config, shape, cached=not settings.encode)

    def run(self) -> dict[str, float]:
        """Seconds, and the peaks of the pass and of the update, bytes above `held`."""
        import mlx.core as mx

        began = timing.clock()
        mx.reset_peak_memory()
        self.backend.accumulate(self.batch)
        of_pass = mx.get_peak_memory() - self.held
        mx.reset_peak_memory()
        self.backend.update(1e-4, self.batch.answer_tokens, 1.0)
        seconds = timing.clock() - began
        return {"seconds": seconds, "pass": of_pass, "update": mx.get_peak_memory() - self.held}


def prepared(kind: Kind) -> Steps:
    """The kind's model, ready to train."""
    set_up("mlx")  # before MLX is imported: a fast BLAS
    import mlx.core as mx

    cpu = mx.default_device() == mx.cpu
    return Steps(random_backend(kind.model(), kind.dtype), kind.shape(), kind.settings(cpu=cpu))
