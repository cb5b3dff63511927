"""What a training reports to its loggers, and when. Nothing here stops or changes a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapter_config import CONFIG_FILE
from ..adapters import WEIGHTS_FILE
from ..files import linked
from ..loggers.choice import chosen, require_usable
from ..loggers.logger import Status
from ..loggers.record import new_record, read_record
from ..loggers.worker import CLOSE_SECONDS
from ..progress import note, say
from ..ranges import short
from ..trained_task import TASK_FILE
from .answered import answer_rows
from .report_channel import Channel, figures
from .run_log import RunLog
from .setup import Setup
from .throughput import Throughput
from .train_config import TrainConfig, as_json
from .train_state import STATE_FILE

INTERRUPTED_SECONDS = 5.0  # what loggers have after Ctrl-C
UPLOAD_SECONDS = 600.0  # and where adapters are to be sent
_ARTIFACT = (CONFIG_FILE, WEIGHTS_FILE, TASK_FILE, STATE_FILE)


def check_reports(config: TrainConfig) -> None:
    """Raise UserError for a logger that cannot be used here, before the model is loaded."""
    require_usable(chosen(config.report_to))


class Reports:
    """The loggers of a run; none where none is chosen, and on every rank but the first.

    They are opened at the first report: a training that fails before its first step leaves nothing behind.
    """

    def __init__(self, setup: Setup, log: RunLog) -> None:
        """Raises UserError for a `report.json` that is not ours."""
        self.setup, self.log, self.config = setup, log, setup.config
        self.names = chosen(setup.config.report_to) if setup.leads else ()
        self._record = (read_record(setup.config.output) if self.names else None) or new_record()
        self._begun = setup.state.step
        self._opened: list[Channel] = []
        self._answering = setup.config.report_rows > 0

    def step(self, record: Mapping[str, Any], recent: Throughput) -> None:
        """Report a line of the log, and the tokens a second (without padding) of this process."""
        rate = (recent.positions - recent.padding) / max(recent.seconds, 1e-9)
        for channel in self._channels():
            channel.figures(int(record["step"]), figures(record) | {"train/tokens_per_second": rate})

    def validated(self, step: int) -> None:
        """Answer some validation rows and report them as a table."""
        channels = [channel for channel in self._channels() if not channel.worker.failed]
        if not self._answering or not channels:
            return
        try:
            table = answer_rows(self.setup, step, self.config.report_rows)
        except Exception as error:  # of any kind: what is reported never stops a training
            self._answering = False
            note(f"the answers of step {step} cannot be reported ({short(str(error), 200, str)}); the training goes on")
            return
        for channel in channels:
            channel.answers(table)

    def saved(self, step: int, folder: Path, *, best: bool) -> None:
        """Report a checkpoint that was written, where every one is asked for."""
        if self.config.report_checkpoints == "checkpoint":
            self._artifact(step, folder, ("last", "best") if best else ("last",))

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close the loggers when the block ends, with how it ended."""
        try:
            yield
        except BaseException as error:
            self.close("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.close("finished")

    def close(self, status: Status) -> None:
        """End the run in every logger, and say where it is seen."""
        if status != "finished" and not self._opened:
            return
        if status == "finished" and self.config.report_checkpoints == "end":
            self._artifact(self.setup.total, self.config.output / "best", ("best",))
        seconds = CLOSE_SECONDS if self.config.report_checkpoints == "none" else UPLOAD_SECONDS
        for channel in self._channels():
            where = channel.worker.close(status, INTERRUPTED_SECONDS if status == "interrupted" else seconds)
            if where:
                say(f"{channel.name}: {where}", as_json=self.config.json)

    def _artifact(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """Hand over the adapter's files as links of their own: the checkpoint may be removed before a logger reads it."""
        for channel in self._channels():
            with contextlib.suppress(OSError):  # a full disk is the training's own to report
                channel.checkpoint(step, linked(folder, _ARTIFACT), aliases)

    def _channels(self) -> list[Channel]:
        """The loggers, opened at the first call."""
        if self.names and not self._opened:
            state, order = self.setup.state, self.setup.order
            settings = as_json(self.config) | {
                "total_steps": self.setup.total, "rows": order.rows, "version": __version__,
                "data_fingerprint": state.data_fingerprint, "base_fingerprint": state.base_fingerprint,
            }  # fmt: skip
            lines = [line for line in self.log.lines() if line[0] <= self._begun]
            self._opened = [Channel(name, self.config, self._record, settings, self._begun, lines) for name in self.names]
        return self._opened
