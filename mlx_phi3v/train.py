"""Fine-tune Phi-3-Vision with LoRA on a catalogue of product photos, on MLX or torch.

    python -m mlx_phi3v.train --model microsoft/Phi-3-vision-128k-instruct --data catalogue --output runs/mine
    python -m mlx_phi3v.train --config run.yaml --resume

The loss is taken over the answer only and weighted by its tokens; rows, order and adapters are the same on both
backends. OUTPUT/best and OUTPUT/last hold the adapter in PEFT's format.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.catalogue import Catalogue, Split

from . import adapters, cli
from .adapters import AdapterConfig
from .backend import BACKENDS, DTYPES, Backend, OptimizerConfig, default_backend, load_backend
from .batches import Batch, ExampleMaker
from .checkpoints import Checkpoints, TrainState
from .cli import option
from .errors import UserError, run_cli
from .features import FeatureCache
from .files import write_json
from .footprint import INTERPRETER, Training, catalogue_sizes, footprint, largest_batch, within
from .loader import BatchLoader
from .progress import Progress, result, say
from .prompts import PromptProcessor
from .schedule import SCHEDULES, learning_rate
from .weights import base_fingerprint, resolve_model


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. Defaults follow Microsoft's table for Phi-3-vision (LoRA r 32, alpha 16, lr 2e-4)."""

    data: Path = option(help="catalogue folder, made by data.ingest or data.sample")
    output: Path = option(help="folder for checkpoints and log")
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)")
    backend: str = option(default_backend(), help="framework to train on", choices=BACKENDS)
    dtype: str | None = option(None, help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator", choices=DTYPES)
    resume: bool = option(False, help="go on from OUTPUT/last, bit for bit")
    epochs: float = option(1.0, help="passes over the training rows")
    max_steps: int | None = option(None, help="optimiser steps; wins over epochs")
    batch_size: int = option(4, help="rows per forward pass, over all ranks")
    grad_accumulation_steps: int = option(1, help="forward passes per optimiser step")
    learning_rate: float = option(2e-4, help="peak learning rate")
    lr_schedule: str = option("linear", help="after the warm-up", choices=SCHEDULES)
    warmup_steps: int = option(50, help="optimiser steps of linear warm-up")
    weight_decay: float = option(0.01, help="AdamW's decoupled weight decay")
    adam_betas: tuple[float, ...] = option((0.9, 0.95), help="AdamW's betas")
    adam_eps: float = option(1e-7, help="AdamW's epsilon")
    max_grad_norm: float = option(1.0, help="clip the global gradient norm; 0 turns it off")
    r: int = option(32, help="LoRA rank", flags=("--lora-rank",))  # torchrun takes --r for its own
    lora_alpha: float = option(16.0, help="LoRA alpha; the scale is alpha / r")
    lora_dropout: float = option(0.0, help="dropout before LoRA")
    language: str = option("lora", help="language trunk: qkv_proj o_proj gate_up_proj down_proj", choices=("off", "lora"))
    vision: str = option("lora", help="CLIP tower: q_proj k_proj v_proj out_proj fc1 fc2", choices=("off", "lora"))
    projector: str = option("lora", help="img_projection", choices=("off", "lora", "full"))
    separators: str = option("off", help="sub_GN and glb_GN", choices=("off", "full"))
    lm_head: str = option("off", help="output layer", choices=("off", "lora"))
    num_crops: int | None = option(None, help="most crops a photo is cut into; by default the model's own")
    max_length: int | None = option(None, help="most tokens a row may take; a longer row is an error, never cut")
    group_by_length: bool = option(False, help="rows of like length share a batch, so that less is padding")
    grad_checkpoint: bool = option(False, help="compute activations twice to save memory")
    memory_limit: float | None = option(
        None, help="gigabytes to stay within, on MLX: the rows of a step are shared out over as many passes as that "
        "takes, with --grad-checkpoint where it must be",
    )  # fmt: skip
    feature_cache: Path | None = option(
        None, help="folder to keep photo features in, so that each photo is encoded once; only where nothing before the "
        "language trunk trains",
    )  # fmt: skip
    feature_cache_gb: float = option(20.0, help="most gigabytes that folder may take")
    seed: int = option(0, help="seed of order, LoRA weights and dropout")
    steps_per_report: int = option(10, help="optimiser steps between log lines")
    steps_per_eval: int = option(200, help="optimiser steps between validation losses")
    val_rows: int = option(200, help="validation rows used, 0 for none")
    save_every: int = option(200, help="optimiser steps between checkpoints")
    json: bool = option(False, help="progress as JSON lines on stdout")

    def adapter(self) -> AdapterConfig:
        """The LoRA configuration the group switches ask for. Raises UserError where all are off."""
        targets: tuple[str, ...] = ()
        saved: tuple[str, ...] = ()
        for name, group in _GROUPS.items():
            choice = getattr(self, name)
            targets += group if choice == "lora" else ()
            saved += group if choice == "full" else ()
        if not targets:
            raise UserError("language, vision, projector and lm_head are all without LoRA; set at least one of them to lora")
        return AdapterConfig(self.r, self.lora_alpha, self.lora_dropout, targets, saved, base_model_name_or_path=self.model)


_GROUPS = {
    "language": adapters.LANGUAGE,
    "vision": adapters.VISION,
    "projector": adapters.PROJECTOR,
    "separators": adapters.SEPARATORS,
    "lm_head": adapters.LM_HEAD,
}
# Settings that may differ when a run is resumed: they do not touch the numbers.
_FREE = (
    "resume",
    "json",
    "output",
    "data",
    "memory_limit",
    "steps_per_report",
    "save_every",
    "feature_cache",
    "feature_cache_gb",
)


def train(config: TrainConfig) -> dict[str, Any]:
    """Run (or resume) a training; a summary with steps, losses and the checkpoint folder.

    Raises UserError for wrong settings or data and for a non-finite loss.
    """
    _check(config)
    checkpoints = Checkpoints(config.output)
    catalogue = Catalogue(config.data)
    split = catalogue.split("train")
    has_validation = config.val_rows > 0 and catalogue.info["splits"].get("validation", {}).get("rows")
    if checkpoints.exists() and not config.resume:
        raise UserError(f"{config.output} holds a training run; add --resume to go on with it, or choose another --output")
    folder = resolve_model(config.model)
    say(f"loading {config.model} on {config.backend}", as_json=config.json)
    backend = load_backend(config.backend, folder, dtype=config.dtype)
    num_crops = config.num_crops or backend.config.num_crops
    prompts = PromptProcessor(folder)
    if config.memory_limit is not None:
        config = _within_memory(config, backend, split, ExampleMaker(prompts, backend.config, catalogue.task, num_crops))
    fingerprint = base_fingerprint(folder)
    adapter = config.adapter()
    backend.set_adapter(adapter, adapters.init_adapter(backend.config, adapter, config.seed), trainable=True)
    backend.start_training(
        OptimizerConfig((config.adam_betas[0], config.adam_betas[1]), config.adam_eps, config.weight_decay),
        grad_checkpoint=config.grad_checkpoint,
    )
    state = TrainState(0, config.seed, None, None, _settings(config), catalogue.fingerprint, fingerprint)
    if config.resume and checkpoints.exists():
        state = _resume(checkpoints, backend, state)
    leads = backend.world()[0] == 0  # of several ranks, one writes
    if leads:
        config.output.mkdir(parents=True, exist_ok=True)
        checkpoints.sweep()
        checkpoints.cut_log(state.step)
    cache = _feature_cache(config, backend, adapter, num_crops)
    maker = ExampleMaker(prompts, backend.config, catalogue.task, num_crops, config.max_length, cache.image if cache else None)

    def load(part: Split) -> BatchLoader:
        return BatchLoader(
            part, maker, cache, batch_size=config.batch_size, seed=config.seed,
            group_by_length=config.group_by_length, world=backend.world(),
        )  # fmt: skip

    loader = load(split)
    total = total_steps(config, len(split))
    run = _Run(config, backend, adapter, checkpoints, total, leads)
    validation = load(catalogue.split("validation")) if has_validation else None
    if run.leads:
        write_json(config.output / "settings.json", {**_settings(config), "total_steps": total, "rows": len(split)})
    batches = loader(state.step * config.grad_accumulation_steps)
    with Progress("training", total, as_json=config.json and run.leads, done=state.step) as progress:
        while state.step < total:
            record = run.step(state.step, batches, loader)
            step = state.step + 1
            state = replace(state, step=step)
            last = step == total
            if validation and (last or step % config.steps_per_eval == 0):
                record["val_loss"] = run.validate(validation)
                if state.best_loss is None or record["val_loss"] < state.best_loss:
                    state = replace(state, best_loss=record["val_loss"], best_step=step)
            shown = {key: record[key] for key in ("loss", "rows_per_second", "peak_gb", "val_loss") if key in record}
            progress.advance(**shown)
            if run.leads and (last or step % config.steps_per_report == 0 or "val_loss" in record):
                checkpoints.log(record)
                progress.emit(event="step", **record)
            if run.leads and (last or step % config.save_every == 0 or state.best_step == step):
                run.save(state)
    batches.close()
    if cache:
        say(cache.summary(), as_json=config.json)
    return {
        "steps": total, "rows": len(split), "adapter": str(config.output / "best"), "best_loss": state.best_loss,
        "best_step": state.best_step, "seconds": round(run.whole.seconds, 1),
        "rows_per_second": round(run.whole.rate, 2),
        "data_wait": round(run.whole.waited / max(run.whole.seconds, 1e-9), 4),
        "padding": round(run.whole.padding / max(run.whole.positions, 1), 4),
    }  # fmt: skip


@dataclass(frozen=True)
class _Count:
    """What some steps took. positions: tokens and padding of this rank's batches; waited: seconds without a batch."""

    rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    positions: int = 0
    padding: int = 0

    def __add__(self, other: _Count) -> _Count:
        return _Count(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def rate(self) -> float:
        """Rows a second, pictures' way to the model included."""
        return self.rows / max(self.seconds, 1e-9)


class _Run:
    """One optimiser step after the other, with the running averages that are reported."""

    def __init__(
        self, config: TrainConfig, backend: Backend, adapter: AdapterConfig, checkpoints: Checkpoints, total: int, leads: bool
    ) -> None:
        self.config, self.backend, self.adapter, self.checkpoints = config, backend, adapter, checkpoints
        self.total, self.leads = total, leads
        self.window: list[_Count] = []
        self.whole = _Count()
        self.saved: Path | None = checkpoints.output / "last" if checkpoints.exists() else None
        self.recent: tuple[list[int], Batch] | None = None

    def step(self, step: int, source: Iterator[tuple[list[int], Batch | None]], loader: BatchLoader) -> dict[str, Any]:
        """Forward, backward and update; the log record. Raises UserError where the loss is not finite."""
        started, waited = time.perf_counter(), loader.waited
        config, backend = self.config, self.backend
        batches = [next(source) for _ in range(config.grad_accumulation_steps)]
        rate = learning_rate(
            step,
            peak=config.learning_rate,
            total_steps=self.total,
            warmup_steps=config.warmup_steps,
            schedule=config.lr_schedule,
        )
        # Dropout depends on (seed, step) only, so a resumed run draws the same masks.
        backend.seed(config.seed * 1_000_003 + step)
        sums = np.zeros(2)
        suspects: list[int] = []
        for rows, batch in batches:
            if batch is not None:
                loss = backend.accumulate(batch)
                suspects += rows if not math.isfinite(loss) else []
                sums += (loss, batch.answer_tokens)
                self.recent = rows, batch
        # Summed first, so that all ranks stop together.
        total_loss, tokens = backend.all_sum(sums)
        if not math.isfinite(total_loss):
            raise self._not_finite("loss", total_loss, step, suspects or [row for rows, _ in batches for row in rows])
        norm = backend.update(rate, int(tokens), config.max_grad_norm)
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, step, [row for rows, _ in batches for row in rows])
        mine = [batch for _, batch in batches if batch is not None]
        count = _Count(
            rows=sum(len(rows) for rows, _ in batches),
            seconds=time.perf_counter() - started,
            waited=loader.waited - waited,
            positions=sum(batch.attention_mask.size for batch in mine),
            padding=sum(batch.padding for batch in mine),
        )
        self.window = [*self.window, count][-max(config.steps_per_report, 1) :]
        self.whole = self.whole + count
        recent = sum(self.window, _Count())
        return {
            "step": step + 1,
            "loss": float(total_loss) / max(float(tokens), 1.0),
            "grad_norm": norm,
            "learning_rate": rate,
            "answer_tokens": int(tokens),
            "rows_per_second": recent.rate,
            "data_wait": recent.waited / max(recent.seconds, 1e-9),
            "padding": count.padding / max(count.positions, 1),
            "peak_gb": backend.peak_memory() / 1e9,
        }

    def validate(self, loader: BatchLoader) -> float:
        """Mean token loss over the first `val_rows` validation rows."""
        sums = np.zeros(2)
        rows = range(min(self.config.val_rows, len(loader.split)))
        for start in range(0, len(rows), self.config.batch_size):
            batch = loader.make(rows[start : start + self.config.batch_size])
            if batch is not None:
                sums += (self.backend.loss(batch), batch.answer_tokens)
        loss, tokens = self.backend.all_sum(sums)
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is {loss}; {self._last_good()}; lower --learning-rate")
        return float(loss / max(tokens, 1.0))

    def save(self, state: TrainState) -> None:
        """Write a checkpoint. Raises UserError where the last update has broken the adapter: what is saved is good."""
        tensors = self.backend.adapter_tensors()
        if self.recent is not None:
            rows, batch = self.recent
            loss = self.backend.loss(batch)
            if not math.isfinite(loss) or not all(np.isfinite(value).all() for value in tensors.values()):
                raise self._not_finite("loss after the update", loss, state.step - 1, rows)
        self.saved = self.checkpoints.save(state, self.adapter, tensors, self.backend.optimizer_tensors())

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint was written yet"

    def _not_finite(self, what: str, value: float, step: int, rows: list[int]) -> UserError:
        return UserError(
            f"{what} is {value} at step {step + 1}, rows {', '.join(map(str, rows))} of the train split; {self._last_good()}; "
            "lower --learning-rate, or look at these rows"
        )


def _feature_cache(config: TrainConfig, backend: Backend, adapter: AdapterConfig, num_crops: int) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    if adapter.trains_image_side(backend.config):
        raise UserError(
            "--feature-cache keeps what the image side computes, and this run trains it; leave the flag out, or add "
            "--vision off --projector off --separators off"
        )
    return FeatureCache(config.feature_cache, backend, num_crops, config.feature_cache_gb)


def training_of(config: TrainConfig) -> Training:
    """What of the settings decides the run's memory and time."""
    return Training(config.adapter(), config.dtype or "bfloat16", config.grad_checkpoint, encode=config.feature_cache is None)


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


def total_steps(config: TrainConfig, rows: int) -> int:
    """Optimiser steps of the run."""
    if config.max_steps is not None:
        return config.max_steps
    batches = -(-rows // config.batch_size)
    return max(1, round(batches * config.epochs / config.grad_accumulation_steps))


def _settings(config: TrainConfig) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def _resume(checkpoints: Checkpoints, backend: Backend, fresh: TrainState) -> TrainState:
    state, tensors, optimizer = checkpoints.load()
    # A setting that the version which began the run did not have stood at its default.
    began = {f.name: f.default for f in fields(TrainConfig) if f.default is not MISSING} | state.settings
    for key, value in fresh.settings.items():
        if key not in _FREE and began.get(key) != value:
            raise UserError(
                f"--resume: {key} was {began.get(key)!r} and is now {value!r}; give the old value or another --output"
            )
    if state.data_fingerprint != fresh.data_fingerprint:
        raise UserError(
            "--resume: the catalogue is another one than this run began with; give the old --data or another --output"
        )
    if state.base_fingerprint != fresh.base_fingerprint:
        raise UserError("--resume: the base model is another one than this run began with; give the old --model")
    backend.load_training(tensors, optimizer, state.step)
    return state


def _check(config: TrainConfig) -> None:
    for name in ("batch_size", "grad_accumulation_steps", "r", "steps_per_report", "steps_per_eval", "save_every"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(config, name)}; it must be 1 or more")
    for name in ("num_crops", "max_steps", "max_length"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(config, name)}; it must be 1 or more")
    if not config.learning_rate > 0 or not 0 <= config.lora_dropout < 1:
        raise UserError(
            f"--learning-rate {config.learning_rate} --lora-dropout {config.lora_dropout}: the rate must be above 0, "
            "the dropout from 0 to below 1"
        )
    if len(config.adam_betas) != 2:
        raise UserError(f"--adam-betas takes two numbers, got {len(config.adam_betas)}")
    if config.memory_limit is not None and config.memory_limit <= 0:
        raise UserError(f"--memory-limit is {config.memory_limit:g}; it must be above 0 gigabytes")
    if config.max_steps is None and config.epochs <= 0:
        raise UserError(f"--epochs is {config.epochs}; it must be above 0")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(TrainConfig, "python -m mlx_phi3v.train", __doc__ or "", argv)
    summary = train(config)
    result(config.json, event="done", **summary)
    say(
        f"trained {summary['steps']} steps at {summary['rows_per_second']} rows/s; adapter: {summary['adapter']}",
        as_json=config.json,
    )
    return 0


if __name__ == "__main__":
    run_cli(main)
