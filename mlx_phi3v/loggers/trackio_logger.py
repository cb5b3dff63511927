"""trackio: a database on this machine, seen with `trackio show`; TRACKIO_DIR says where it is."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .logger import Answers, RunInfo, Status, Verdict
from .tables import settings_table


class TrackioLogger:
    """A run of trackio, kept on this machine; `trackio sync` sends a project to a Space."""

    rewinds = False

    def __init__(self, run: RunInfo) -> None:
        import trackio

        self._trackio: Any = trackio
        self.project, self._last = run.project, run.step
        self.artifact_name = re.sub(r"[^\w.-]+", "-", run.name)[:100]
        module: Any = importlib.import_module("trackio.run")
        module.print = _quiet  # it prints on stdout, where --json has its lines
        config = dict(run.config)
        if not run.goes_on:  # its storage keeps the settings that it is given last
            stored = trackio.SQLiteStorage.get_run_config(run.project, run.name, run_id=run.id) or {}
            config = {name: value for name, value in stored.items() if not name.startswith("_")}
        # Not by `trackio.init`, which finds the run to resume by its name: another run may have the same.
        self._run: Any = trackio.Run(url=None, project=run.project, client=None, name=run.name, run_id=run.id, config=config)
        if not run.begun:
            self._run.log({"settings": trackio.Markdown(settings_table(run))}, step=0)

    def held(self) -> int | None:
        """See `Logger`. It writes twice a second, so a kill takes little."""
        last = self._trackio.SQLiteStorage.get_max_step_for_run(self.project, self._run.name, run_id=self._run.id)
        return None if last is None else int(last)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def answers(self, table: Answers) -> None:
        """See `Logger`."""
        data = [
            {
                "row": row.id,
                "photo": None if row.picture is None else self._trackio.Image(row.picture),
                **row.cells,
                "answer": row.answer,
                "truth": row.truth,
            }
            for row in table.rows
        ]
        self._run.log({"validation/answers": self._trackio.Table(data=data), **table.measures}, step=table.step)

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """See `Logger`."""
        artifact = self._trackio.Artifact(f"{self.artifact_name}-adapter", type="model", metadata={"step": step})
        artifact.add_dir(folder)
        self._run.log_artifact(artifact, aliases=[*aliases, f"step-{step}"])

    def verdict(self, verdict: Verdict) -> None:
        """See `Logger`."""
        name = f"verdict/{verdict.name}"
        text = f"**{verdict.word}**\n\n```\n{verdict.lines}\n```"
        figures = {f"{name}/{measure}": value for measure, value in verdict.measures.items()}
        self._run.log({name: self._trackio.Markdown(text), **figures}, step=self._last)
        if verdict.page:
            artifact = self._trackio.Artifact(f"{self.artifact_name}-verdict", type="verdict")
            artifact.add_file(verdict.page, name="report.html")
            self._run.log_artifact(artifact)

    def close(self, status: Status) -> None:
        """See `Logger`."""
        self._run.finish()

    def where(self) -> str:
        """See `Logger`."""
        return f"trackio show --project {shlex.quote(self.project)}"


def _quiet(*_: object, **__: object) -> None:
    """In the place of `print`."""
