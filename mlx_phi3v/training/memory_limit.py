"""Choose rows per pass, passes per step and checkpointing so that a step stays within --memory-limit."""

from __future__ import annotations

from dataclasses import replace

from ..backend import Backend
from ..batches import ExampleMaker
from ..catalogue import Split
from ..errors import UserError
from ..progress import say
from .footprint import INTERPRETER, catalogue_sizes, footprint, largest_batch, within
from .settings import TrainConfig, training_of


def _within_memory(config: TrainConfig, backend: Backend, split: Split, maker: ExampleMaker) -> TrainConfig:
    """The settings with rows per pass, passes per step and checkpointing chosen so that --memory-limit holds."""
    assert config.memory_limit is not None
    if config.backend != "mlx":
        raise UserError("--memory-limit plans for MLX; leave it out with --backend torch, or set --batch-size yourself")
    on_cpu = backend.device_info()["name"] == "cpu"
    training = replace(training_of(config), dtype=backend.dtype, cpu=on_cpu)
    work = largest_batch(catalogue_sizes(split), maker, config.batch_size)
    found = within(backend.config, work, training, int(config.memory_limit * 1e9))
    if found is None:
        least = footprint(
            backend.config, replace(work, rows=1, crops=-(-work.crops // work.rows)), replace(training, grad_checkpoint=True)
        )
        raise UserError(
            f"--memory-limit {config.memory_limit:g}: one row at a time with checkpointing still takes "
            f"{(least.total + INTERPRETER) / 1e9:.1f} GB; python -m mlx_phi3v.plan says what else can be made smaller"
        )
    rows, grad_checkpoint = found
    passes = config.grad_accumulation_steps * config.batch_size // rows
    part = replace(work, rows=rows, crops=-(-work.crops * rows // work.rows))
    peak = footprint(backend.config, part, replace(training, grad_checkpoint=grad_checkpoint)).total + INTERPRETER
    checkpointing = ", with checkpointing" if grad_checkpoint else ""
    say(
        f"--memory-limit {config.memory_limit:g}: {rows} rows a pass, {passes} passes a step{checkpointing}; "
        f"foreseen peak {peak / 1e9:.1f} GB",
        as_json=config.json,
    )
    return replace(config, batch_size=rows, grad_accumulation_steps=passes, grad_checkpoint=grad_checkpoint)
