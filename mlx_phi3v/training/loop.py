"""The training loop: set up, take the optimiser steps with validation, checkpoints and log, and return a summary."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..batches import Batch
from ..buckets import computed_positions
from ..errors import UserError
from ..loader import Pass
from ..overflow import float16_advice
from ..progress import Progress, say
from ..schedule import learning_rate
from ..system_errors import os_sentence
from .output_folder import held, write_settings
from .reporting import Reports, check_reports
from .run_log import RunLog
from .setup import Setup, set_up
from .step_losses import StepLosses
from .throughput import Throughput, ThroughputMeter
from .train_config import TrainConfig, check
from .train_state import TrainState


def train(config: TrainConfig) -> dict[str, Any]:
    """Run (or resume) a training; a summary with steps, losses and the checkpoint folder.

    The output folder is held until it ends. Raises UserError for wrong settings or data, for a non-finite loss, and where
    the output cannot be written or is not a training's.
    """
    check(config)
    check_reports(config)
    with held(config.output, config.backend):
        trainer = Trainer(set_up(config))
        trainer.open_output()
        with trainer.reports.closing():
            trainer.run()
        return trainer.summarise()


@dataclass(frozen=True)
class StepRecord:
    """A line of the log. step: from 1; loss: mean over the step's answer tokens; peak_gb: most memory so far."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    answer_tokens: int
    rows_per_second: float
    data_wait: float
    padding: float
    peak_gb: float
    val_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Trainer:
    """A run, from the step after `setup.state` to its last one."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config, self.backend = setup, setup.config, setup.backend
        self.state: TrainState = setup.state
        self.throughput = ThroughputMeter(setup.config.steps_per_report)
        self.saved: Path | None = setup.checkpoints.newest()
        self.log = RunLog(setup.checkpoints.output)
        self.reports = Reports(setup, self.log)
        self.recent: tuple[list[int], Batch] | None = None

    def open_output(self) -> None:
        """Write settings.json, with the rows per pass that are used, and cut the log to the steps that are done."""
        if not self.setup.leads:  # of several ranks, one writes
            return
        order, passes = self.setup.order, self.setup.passes
        run = {
            "batch_size": passes.rows,
            "grad_accumulation_steps": -(-order.rows_per_step // passes.rows),
            "grad_checkpoint": passes.grad_checkpoint,
            "total_steps": self.setup.total,
            "rows": order.rows,
        }
        # First: by it the folder is known as ours.
        write_settings(self.config.output, self.state.settings | run)
        self.log.cut(self.state.step)
        self.setup.checkpoints.settle(self.state)

    def run(self) -> None:
        """Take all remaining steps."""
        setup, config = self.setup, self.config
        passes = setup.training(setup.order.passes(self.state.step, setup.passes.rows))
        done, leads = self.state.step, setup.leads
        with closing(passes), Progress("training", setup.total, as_json=config.json and leads, done=done) as progress:
            while self.state.step < setup.total:
                record = self.step(passes)
                self.state = replace(self.state, step=record.step)
                last = record.step == setup.total
                if setup.validation and (last or record.step % config.steps_per_eval == 0):
                    self.backend.free_memory()
                    record = replace(record, val_loss=self.validate())
                    self.note_best(record)
                self.report(record, progress, always=last)
                if record.val_loss is not None:
                    self.reports.validated(record.step)
                    self.backend.free_memory()
                if leads and (last or record.step % config.save_every == 0 or self.state.best_step == record.step):
                    self.save()
        if setup.cache:
            say(setup.cache.summary(), as_json=config.json)

    def step(self, source: Iterator[Pass]) -> StepRecord:
        """Forward, backward and update over the passes of the next step. Raises UserError where the loss is not finite."""
        started, waited = time.perf_counter(), self.setup.training.waited
        passes = take_step(source)
        rate = self.learning_rate()
        # Dropout depends on (seed, step) only, so a resumed run draws the same masks.
        self.backend.seed(self.config.seed * 1_000_003 + self.state.step)
        losses = self.accumulate(passes)
        loss, tokens = self.sum_over_ranks(losses, _rows(passes))
        with self.setup.limit.waiting():
            norm = self.backend.update(rate, tokens, self.config.max_grad_norm)
        loss = self.finite_total(losses, _rows(passes)) if loss is None else loss
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, self.state.step, _rows(passes))
        batches = [one.batch for one in passes if one.batch is not None]
        positions = sum(computed_positions(batch, compiled=self.config.compile) for batch in batches)
        taken = Throughput(
            rows=len(_rows(passes)),
            seconds=time.perf_counter() - started,
            waited=self.setup.training.waited - waited,
            positions=positions,
            padding=positions - sum(batch.tokens for batch in batches),
        )
        self.throughput.add(taken)
        recent = self.throughput.recent
        return StepRecord(
            self.state.step + 1, loss / max(tokens, 1), norm, rate, tokens, recent.rows_per_second, recent.data_wait,
            taken.padding_share, self.backend.peak_memory() / 1e9,
        )  # fmt: skip

    def learning_rate(self) -> float:
        """The rate of the next step."""
        return learning_rate(
            self.state.step,
            peak=self.config.learning_rate,
            total_steps=self.setup.total,
            warmup_steps=self.config.warmup_steps,
            schedule=self.config.lr_schedule,
        )

    def accumulate(self, passes: Sequence[Pass]) -> StepLosses:
        """Add the gradients of a step's passes; their losses are not waited for."""
        losses = StepLosses()
        for one in passes:
            if one.batch is not None:
                losses.add(one, self.backend.accumulate(one.batch))
                self.recent = one.rows, one.batch
        return losses

    def sum_over_ranks(self, losses: StepLosses, rows: list[int]) -> tuple[float | None, int]:
        """Summed token loss and answer tokens of the step; the loss of a single rank is read after its update only.

        Of several ranks all have the sum before they update, so that all stop together. Raises UserError if it is not finite.
        """
        if self.backend.world()[1] == 1:
            return None, losses.tokens
        with self.setup.limit.waiting():
            total, tokens = self.backend.all_sum(np.array([losses.total(), losses.tokens]))
        return self.finite_total(losses, rows, float(total)), int(tokens)

    def finite_total(self, losses: StepLosses, rows: list[int], total: float | None = None) -> float:
        """The step's summed token loss, over all ranks where `total` is given. Raises UserError if it is not finite."""
        total = losses.total() if total is None else total
        if not math.isfinite(total):
            raise self._not_finite("loss", total, self.state.step, losses.not_finite() or rows)
        return total

    def validate(self) -> float:
        """Mean token loss (nats) over the first `val_rows` validation rows. Raises UserError if it is not finite."""
        loader, size = self.setup.validation, self.setup.passes.rows
        assert loader is not None
        sums = np.zeros(2)
        rows = self.setup.validation_rows
        for start in range(0, len(rows), size):
            batch = loader.make(rows[start : start + size])
            if batch is not None:
                sums += (self.backend.loss(batch), batch.answer_tokens)
        with self.setup.limit.waiting():
            loss, tokens = self.backend.all_sum(sums)
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is {loss}; {self._last_good()}{self._advice('lower --learning-rate')}")
        return float(loss / max(tokens, 1.0))

    def note_best(self, record: StepRecord) -> None:
        """Remember the step with the lowest validation loss."""
        if self.state.best_loss is None or (record.val_loss is not None and record.val_loss < self.state.best_loss):
            self.state = replace(self.state, best_loss=record.val_loss, best_step=record.step)

    def report(self, record: StepRecord, progress: Progress, *, always: bool) -> None:
        """Move the bar; every `steps_per_report` steps, after a validation and at the end also write a line of the log."""
        values = record.to_dict()
        progress.advance(**{key: values[key] for key in ("loss", "rows_per_second", "peak_gb", "val_loss") if key in values})
        due = always or record.step % self.config.steps_per_report == 0 or record.val_loss is not None
        if self.setup.leads and due:
            with self._writing():
                self.log.append(values)
            self.reports.step(values, self.throughput.recent)
            progress.emit(event="step", **values)

    def save(self) -> None:
        """Write a checkpoint. Raises UserError if the last update made the adapter non-finite: every checkpoint is usable."""
        tensors = self.backend.adapter_tensors()
        if self.recent is not None:
            rows, batch = self.recent
            loss = self.backend.loss(batch)
            if not math.isfinite(loss) or not all(np.isfinite(value).all() for value in tensors.values()):
                raise self._not_finite("loss after the update", loss, self.state.step - 1, rows)
        optimizer = self.backend.optimizer_tensors()
        with self._writing():
            self.saved = self.setup.checkpoints.save(self.state, self.setup.adapter, tensors, optimizer, self.setup.task)
        self.reports.saved(self.state.step, self.saved, best=self.state.best_step == self.state.step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the system says of a file (a full disk) into a sentence that names it and the checkpoint that is good."""
        try:
            yield
        except OSError as error:
            sentence = os_sentence(error)
            if sentence is None:
                raise
            go_on = "; --resume goes on from there" if self.saved else ""
            raise UserError(f"{sentence}; {self._last_good()}{go_on}") from None

    def summarise(self) -> dict[str, Any]:
        """The summary that `train` returns."""
        whole, started_from = self.throughput.whole, self.config.init_adapter
        return {
            "steps": self.setup.total, "rows": self.setup.order.rows, "adapter": str(self.config.output / "best"),
            **({"init_adapter": started_from} if started_from else {}),
            "best_loss": self.state.best_loss, "best_step": self.state.best_step, "seconds": round(whole.seconds, 1),
            "rows_per_second": round(whole.rows_per_second, 2), "data_wait": round(whole.data_wait, 4),
            "padding": round(whole.padding_share, 4), "compilations": self.backend.compilations,
        }  # fmt: skip

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint was written yet"

    def _not_finite(self, what: str, value: float, step: int, rows: list[int]) -> UserError:
        return UserError(
            f"{what} is {value} at step {step + 1}, rows {', '.join(map(str, rows))} of the train split; {self._last_good()}"
            + self._advice("lower --learning-rate, or look at these rows")
        )

    def _advice(self, usual: str) -> str:
        return float16_advice(self.backend.dtype) or f"; {usual}"


def take_step(passes: Iterator[Pass]) -> list[Pass]:
    """The passes of the next step."""
    taken = [next(passes)]
    while not taken[-1].ends_step:
        taken.append(next(passes))
    return taken


def _rows(passes: Sequence[Pass]) -> list[int]:
    return [row for one in passes for row in one.rows]
