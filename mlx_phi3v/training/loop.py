"""The training loop: one optimiser step after the other, validation, checkpoints and the log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import MISSING, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import adapters
from ..adapters import AdapterConfig
from ..backend import Backend, OptimizerConfig, load_backend
from ..batches import Batch, ExampleMaker
from ..catalogue import Catalogue, Split
from ..checkpoint.fingerprint import base_fingerprint
from ..checkpoint.hub import resolve_model
from ..errors import UserError
from ..files import write_json
from ..loader import BatchLoader
from ..progress import Progress, say
from ..prompts import PromptProcessor
from ..schedule import learning_rate
from .checkpoints import Checkpoints, TrainState
from .features import FeatureCache
from .memory_limit import _within_memory
from .settings import _FREE, TrainConfig, _check, _settings, total_steps


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
