"""Choose rows per pass and checkpointing so that a step stays within --memory-limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import calibration
from ..adapters import AdapterArgs
from ..backend import Backend
from ..errors import UserError
from ..progress import say
from .footprint import fit_to_limit, footprint
from .row_lengths import RowLengths
from .step_shape import BatchShape, StepSettings, largest_batch, step_settings
from .train_config import TrainConfig


@dataclass(frozen=True)
class Passes:
    """How a step is split into passes: most rows of a pass, and whether activations are saved or computed twice.

    It changes memory and time, not the result: see `row_order.RowOrder`.
    """

    rows: int
    grad_checkpoint: bool


def choose_passes(config: TrainConfig, backend: Backend, adapter: AdapterArgs, lengths: RowLengths | None) -> Passes:
    """The passes of the settings or, with --memory-limit, passes that stay within it; that needs `lengths` of all rows.

    Raises UserError if nothing does.
    """
    if config.memory_limit is None:
        return Passes(config.batch_size, config.grad_checkpoint)
    assert lengths is not None
    on_cpu = backend.device_info()["name"] == "cpu"
    known = calibration.read(backend.name)
    factor = (known and known.activations) or 1.0
    training = replace(step_settings(config, adapter), dtype=backend.dtype, cpu=on_cpu, activations=factor)
    shape = largest_batch(lengths, config.batch_size)
    found = fit_to_limit(backend.config, shape, training, int(config.memory_limit * 1e9))
    if found is None:
        least = _peak(backend, shape, training, Passes(1, True))
        raise UserError(
            f"--memory-limit {config.memory_limit:g}: one row at a time with checkpointing still takes {least:.1f} GB; "
            "python -m mlx_phi3v.plan lists what else can be made smaller"
        )
    passes = Passes(*found)
    count = config.grad_accumulation_steps * config.batch_size // passes.rows
    say(
        f"--memory-limit {config.memory_limit:g}: {passes.rows} rows a pass, {count} passes a step"
        f"{', with checkpointing' if passes.grad_checkpoint else ''}; "
        f"estimated peak {_peak(backend, shape, training, passes):.1f} GB{_source(known)}",
        as_json=config.json,
    )
    return passes


def _source(known: calibration.Calibration | None) -> str:
    """Where the estimate comes from, if not from shapes alone."""
    return f", as measured here on {known.made[:10]} by mlx_phi3v.doctor" if known and known.activations else ""


def _peak(backend: Backend, shape: BatchShape, training: StepSettings, passes: Passes) -> float:
    """Gigabytes of a pass, the interpreter included."""
    one_pass = replace(shape, rows=passes.rows, crops=-(-shape.crops * passes.rows // shape.rows))
    return footprint(backend.config, one_pass, replace(training, grad_checkpoint=passes.grad_checkpoint)).process / 1e9
