"""Resume a run: which settings may differ from those it began with, and what becomes of its learning rate."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

from ..errors import UserError
from ..schedule import learning_rate
from .row_order import total_steps
from .train_config import LORA_DEFAULTS, TrainConfig, as_json
from .train_state import TrainState

# Settings that change no number of what is left to do, or not by more than rounding.
FREE = (
    "resume", "json", "output", "data", "steps_per_report", "save_every", "feature_cache", "feature_cache_gb",
    "memory_limit", "grad_checkpoint", "compile", "max_length", "mlx_adapter", "upload_repo", "public", "rank_timeout",
    "report_to", "project", "run_name", "report_rows", "report_checkpoints",
)  # fmt: skip
# Settings with a rule of their own below.
_RULED = ("batch_size", "grad_accumulation_steps", "epochs", "max_steps", "init_adapter")


def began_with(state: TrainState) -> dict[str, Any]:
    """The settings a run began with. One that the version which began it did not have stood at its default."""
    return {f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING} | LORA_DEFAULTS | state.settings


def adopt(config: TrainConfig, state: TrainState) -> TrainConfig:
    """The settings to go on with: rank, alpha and targets of a run that began with --init-adapter are its own.

    Raises UserError where --init-adapter is given and is not what the run began with.
    """
    began = began_with(state)
    if config.init_adapter not in (None, began["init_adapter"]):
        raise UserError("--resume continues with the adapter of OUTPUT/last; leave --init-adapter out, or change --output")
    if began["init_adapter"] is None:
        return config
    own = {name: began[name] for name in LORA_DEFAULTS if getattr(config, name) is None}
    return replace(config, init_adapter=began["init_adapter"], **own)


def drawn(config: TrainConfig, state: TrainState | None) -> tuple[int, int]:
    """(batch_size, grad_accumulation_steps) by which rows are drawn: those the run began with."""
    if state is None:
        return config.batch_size, config.grad_accumulation_steps
    began = began_with(state)
    return began["batch_size"], began["grad_accumulation_steps"]


def require_same(config: TrainConfig, state: TrainState, data_fingerprint: str, base_fingerprint: str) -> None:
    """Raises UserError where a setting, the catalogue or the base that decides the numbers is not what it was."""
    began = began_with(state)
    for key, value in as_json(config.with_lora_defaults()).items():
        if key not in FREE and key not in _RULED and began.get(key) != value:
            raise UserError(
                f"--resume: {key} was {began.get(key)!r} and is now {value!r}; give the old value or another --output"
            )
    if config.skip_long and began.get("max_length") != config.max_length:
        raise UserError(
            f"--resume: max_length was {began.get('max_length')} and is now {config.max_length}, and with --skip-long it "
            "decides which rows are drawn; give the old value or another --output"
        )
    batch_size, accumulation = drawn(config, state)
    rows, now = batch_size * accumulation, config.batch_size * config.grad_accumulation_steps
    if rows != now:
        raise UserError(
            f"--resume: a step of this run has {rows} rows (batch_size {batch_size} x grad_accumulation_steps {accumulation}) "
            f"and would now have {now}; give two numbers whose product is {rows}, or another --output"
        )
    if state.data_fingerprint != data_fingerprint:
        raise UserError(
            "--resume: the catalogue is another one than this run began with; give the old --data or another --output"
        )
    if state.base_fingerprint != base_fingerprint:
        raise UserError("--resume: the base model is another one than this run began with; give the old --model")


def new_total(config: TrainConfig, state: TrainState, rows: int) -> tuple[int, str | None]:
    """The run's optimiser steps under the present --epochs or --max-steps, and what changes by them, in one sentence.

    A constant rate goes on as it was. A linear or cosine schedule is computed over the new total, so the rate of the
    steps left is another than it would have been. Raises UserError where more steps are done than asked for.
    """
    began, (batch_size, accumulation) = began_with(state), drawn(config, state)
    config = replace(config, batch_size=batch_size, grad_accumulation_steps=accumulation)
    old = total_steps(replace(config, epochs=began["epochs"], max_steps=began["max_steps"]), rows)
    total = total_steps(config, rows)
    if total < state.step:
        asked = f"--epochs {config.epochs:g}" if config.max_steps is None else f"--max-steps {config.max_steps}"
        raise UserError(
            f"--resume: {state.step} steps are done and {asked} asks for {total} in all; ask for {state.step} or more"
        )
    if total == old or state.step == total:
        return total, None
    before, after = (_rate(config, state.step, steps) for steps in (old, total))
    change = f"--resume: the run now ends after {total} steps instead of {old}"
    if config.lr_schedule == "constant":
        return total, f"{change}; the learning rate is constant and stays {after:.3g}"
    return total, (
        f"{change}, and the {config.lr_schedule} schedule is computed over {total}: the learning rate of step "
        f"{state.step + 1} is {after:.3g}, it would have been {before:.3g}"
    )


def _rate(config: TrainConfig, step: int, total: int) -> float:
    return learning_rate(
        step, peak=config.learning_rate, total_steps=total, warmup_steps=config.warmup_steps, schedule=config.lr_schedule
    )
