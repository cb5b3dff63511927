"""One logger of a training: what it has been given, so that a resumed run neither repeats nor leaves out a step."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..loggers.choice import open_logger, project_of
from ..loggers.logger import Answers, Logger, RunInfo
from ..loggers.record import Record, Reported
from ..loggers.worker import Worker
from .train_config import TrainConfig

_NAMES = {"peak_gb": "train/peak_memory_gb", "val_loss": "validation/loss"}
_saving = threading.Lock()  # the record is written by the worker of each logger


def figures(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of log.jsonl as the loggers name it: `loss` is `train/loss`, `val_loss` is `validation/loss`."""
    return {_NAMES.get(name, f"train/{name}"): float(value) for name, value in line.items() if name != "step"}


class Channel:
    """A logger of the run with its worker. W&B and trackio take a step once; TensorBoard drops what a killed process wrote."""

    def __init__(
        self, name: str, config: TrainConfig, record: Record, settings: Mapping[str, Any], begun: int,
        lines: Sequence[tuple[int, str]],
    ) -> None:  # fmt: skip
        """begun: the steps that were done when this process began; lines: those of the log up to there."""
        self.name, self.config, self.record, self.begun = name, config, record, begun
        known = record.loggers.get(name)
        own_name = config.run_name or config.output.resolve().name
        self.given = known or Reported(project_of(name, config.project), own_name[:256] or "run")
        record.loggers[name] = self.given
        self._before = Reported(self.given.project, self.given.name, self.given.step, self.given.answers)
        info = RunInfo(record.id, self.given.project, self.given.name, config.output, settings, known is not None, begun)
        self.worker = Worker(name, lambda: self._open(info, lines))

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Report figures of a step, once."""

        def call(logger: Logger) -> None:
            if logger.rewinds or step > self._before.step:
                logger.scalars(step, values)
                self._mark(step=step)

        self.worker.put(call)

    def answers(self, table: Answers) -> None:
        """Report the answers after a step, once."""

        def call(logger: Logger) -> None:
            if logger.rewinds or table.step > self._before.answers:
                logger.answers(table)
                self._mark(answers=table.step)

        self.worker.put(call)

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """Report an adapter; `folder` is removed afterwards."""

        def call(logger: Logger) -> None:
            try:
                logger.checkpoint(step, folder, aliases)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        self.worker.put(call)

    def _open(self, info: RunInfo, lines: Sequence[tuple[int, str]]) -> Logger:
        """Open the run, and give it the steps that it lacks: it had failed, was killed, or was not asked for."""
        self._mark()  # first: a run that was opened must be found again by its id
        logger = open_logger(self.name, info)
        most = self.begun if logger.rewinds else logger.held() if info.begun else None
        if most is not None:
            self._before.step, self._before.answers = min(self._before.step, most), min(self._before.answers, most)
            self._mark(step=self._before.step, answers=self._before.answers)
        for step, text in lines:
            if self._before.step < step <= self.begun:
                logger.scalars(step, figures(json.loads(text)))
                self._mark(step=step)
        return logger

    def _mark(self, **given: int) -> None:
        with _saving:
            for name, step in given.items():
                setattr(self.given, name, step)
            self.record.save(self.config.output)
