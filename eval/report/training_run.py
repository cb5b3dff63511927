"""The verdict of a comparison in the run of the training it is about: in W&B, TensorBoard and trackio."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from mlx_phi3v.errors import UserError
from mlx_phi3v.loggers.choice import chosen, open_logger, require_usable
from mlx_phi3v.loggers.logger import Logger, RunInfo, Verdict
from mlx_phi3v.loggers.record import RECORD_FILE, Record, read_record
from mlx_phi3v.loggers.worker import CLOSE_SECONDS, Worker
from mlx_phi3v.progress import say
from mlx_phi3v.training.output_folder import SETTINGS_FILE

from ..compare.compare_sets import SetComparison
from ..compare.comparison import Comparison
from ..compare.trainings import find_training
from ..runs.run import Run

_WIDTH = 100  # of the report as text
_ELSE = "the verdict stands, and the report is complete without it"


@dataclass(frozen=True)
class ReportedTraining:
    """A training's output folder, its record, and the loggers that get the verdict."""

    folder: Path
    record: Record
    names: tuple[str, ...]

    def add(
        self, comparison: Comparison | SetComparison, show: Callable[[Console], None], page: Path | None, *, as_json: bool
    ) -> None:
        """Add the verdict to the run. A logger that fails or hangs is left with one line. show: prints the report."""
        console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
        show(console)
        assert isinstance(console.file, io.StringIO)
        name = re.sub(r"[^\w.-]+", "-", f"{comparison.a.label}-and-{comparison.b.label}")[:120]
        verdict = Verdict(name, comparison.verdict, console.file.getvalue(), _measures(comparison), page)
        for logger in self.names:
            worker = Worker(logger, partial(self._open, logger), else_=_ELSE)
            worker.put(partial(_give, verdict))
            where = worker.close("finished", CLOSE_SECONDS)
            if where:
                say(f"the verdict is in {logger}: {where}", as_json=as_json)

    def _open(self, name: str) -> Logger:
        entry = self.record.loggers[name]
        return open_logger(
            name, RunInfo(self.record.id, entry.project, entry.name, self.folder, {}, True, entry.step, goes_on=False)
        )


def find_reported(report_to: Sequence[str], folder: Path | None, runs: Sequence[Run]) -> ReportedTraining | None:
    """The training that gets the verdict; None where none is to. runs: those compared, the last one first to be asked.

    Raises UserError where no training is found, or it was not reported to a logger that is asked for.
    """
    names = chosen(report_to)
    if not names and folder is None:
        return None
    if folder is None:
        trainings = [find_training(run) for run in reversed(runs)]
        here = [Path(found.folder) for found in trainings if found and (Path(found.folder) / SETTINGS_FILE).is_file()]
        if not here:
            raise UserError(
                "--report-to: no run names the folder of a training that is here; give --report-run OUTPUT, the output folder "
                "of mlx_phi3v.train"
            )
        folder = here[0]
    record = read_record(folder)
    lacking = [name for name in names if record is None or name not in record.loggers]
    if record is None or lacking:
        raise UserError(
            f"{folder} was not reported{f' to {lacking[0]}' if record else f' anywhere: it has no {RECORD_FILE}'}; "
            "mlx_phi3v.train --resume --report-to does so afterwards, or give --report-run another folder"
        )
    names = names or tuple(record.loggers)
    require_usable(names)
    return ReportedTraining(folder, record, names)


def _give(verdict: Verdict, logger: Logger) -> None:
    logger.verdict(verdict)


def _measures(comparison: Comparison | SetComparison) -> dict[str, float]:
    """Every measure of A and B with the difference and its 95 % interval; the gates with the interval that decides."""
    found: dict[str, float | None] = {"exit_status": float(comparison.exit_status), "rows": float(comparison.joined)}
    for item in comparison.metrics:
        name, (low, high) = f"{item.field}/{item.metric}", item.interval
        found |= {f"{name}/a": item.a, f"{name}/b": item.b, f"{name}/difference": item.difference}
        found |= {f"{name}/low": low, f"{name}/high": high}
    for gate in comparison.gates:
        name = f"gate/{gate.field}/{gate.metric}"
        found |= {f"{name}/margin": gate.margin, f"{name}/low": gate.interval[0], f"{name}/high": gate.interval[1]}
    return {name: float(value) for name, value in found.items() if value is not None}
