"""What a training step computes: the shape of its batch, and the settings that decide its memory and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..adapters import AdapterArgs, adapter_shapes
from ..buckets import crop_bucket, token_bucket
from ..checkpoint.layout import VISION
from ..config import ModelArgs
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


def largest_batch(lengths: RowLengths, batch_size: int) -> BatchShape:
    """The largest batch that can come of rows of these lengths.

    Every row in it is as long as the longest, and has as many crops as the one with most.
    """
    tokens, labels, crops = (int(values.max(initial=0)) for values in (lengths.tokens, lengths.labels, lengths.crops))
    return BatchShape(batch_size, tokens, crops * batch_size, labels)


@dataclass(frozen=True)
class StepSettings:
    """The settings of a run that decide its footprint. encode: the tower runs in the step; cpu: MLX on a CPU.

    compiled: batches are padded, and on a CPU what trains is left to MLX's own operations. activations: what this machine
    takes of the estimated bytes, where that was measured (`calibration`).
    """

    adapter: AdapterArgs
    dtype: str
    grad_checkpoint: bool
    encode: bool = True
    cpu: bool = False
    compiled: bool = False
    activations: float = 1.0

    @property
    def kernels(self) -> str:
        """Whose operations compute what trains: "ours", those of `backend_mlx.cpu`; MLX's own on a CPU; an accelerator's."""
        if not self.cpu:
            return "accelerator"
        return "ours" if self.dtype == "float32" and not self.compiled else "mlx"

    @property
    def foreseen(self) -> bool:
        """Whether such a step was ever measured; a compiled one of an accelerator was not."""
        return self.cpu or not self.compiled


def step_settings(config: TrainConfig, adapter: AdapterArgs | None = None) -> StepSettings:
    """The settings that decide the run's memory and time. adapter: the one trained, if it is not the one they describe."""
    return StepSettings(
        adapter or config.adapter(), config.dtype or "bfloat16", config.grad_checkpoint, encode=config.feature_cache is None,
        compiled=config.compile,
    )  # fmt: skip


def computed(config: ModelArgs, shape: BatchShape, training: StepSettings) -> BatchShape:
    """What a pass computes of a batch: a compiled one pads it to a bucket, its crops where the image side trains."""
    if not training.compiled:
        return shape
    trains = shape.crops and adapter_shapes(config, training.adapter).any_in(VISION)
    crops = crop_bucket(shape.crops) if trains else shape.crops
    return replace(shape, tokens=token_bucket(shape.tokens), crops=crops)
