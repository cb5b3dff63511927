"""Weights & Biases: online, or with WANDB_MODE=offline as files in OUTPUT/wandb that `wandb sync` sends."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .logger import Answers, RunInfo, Status, Verdict

_EXIT = {"finished": 0, "failed": 1, "interrupted": 130}
_READING = 120.0  # seconds for one offline run
FINISH_SECONDS = 45.0  # to send what is left; the files stay, and `wandb sync` sends them


class WandbLogger:
    """A run of W&B. It records neither the repository, nor the code, nor what the terminal shows."""

    rewinds = False

    def __init__(self, run: RunInfo) -> None:
        import wandb

        self._wandb: Any = wandb
        self.artifact_name = re.sub(r"[^\w.-]+", "-", run.name)[:100]
        settings = wandb.Settings(
            silent=True,
            console="off",  # it would take the place of stdout
            disable_git=True,
            disable_code=True,
            save_code=False,
            finish_timeout=FINISH_SECONDS,
        )
        self._run: Any = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            config=dict(run.config),
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            settings=settings,
        )

    def held(self) -> int | None:
        """See `Logger`. It keeps some seconds and the last step in memory, which a kill takes."""
        if self._run.settings.mode == "online":
            return int(self._run.step) - 1 if self._run.resumed else None
        return held_offline(Path(self._run.dir).parent.parent, self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def answers(self, table: Answers) -> None:
        """See `Logger`."""
        data = [
            [row.id, self._picture(row.picture, row.answer), *row.cells.values(), row.answer, row.truth] for row in table.rows
        ]
        columns = ["row", "photo", *table.columns, "answer", "truth"]
        shown = self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)
        self._run.log({"validation/answers": shown, **table.measures}, step=table.step)

    def checkpoint(self, step: int, folder: Path, aliases: tuple[str, ...]) -> None:
        """See `Logger`."""
        artifact = self._wandb.Artifact(f"{self.artifact_name}-adapter", type="model", metadata={"step": step})
        for path in sorted(folder.iterdir()):  # add_dir prints a line
            artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=[*aliases, f"step-{step}"])

    def verdict(self, verdict: Verdict) -> None:
        """See `Logger`."""
        figures = {f"verdict/{verdict.name}/{name}": value for name, value in verdict.measures.items()}
        self._run.summary.update({f"verdict/{verdict.name}": verdict.word, **figures})
        artifact = self._wandb.Artifact(f"{self.artifact_name}-verdict", type="verdict", metadata={"verdict": verdict.word})
        with artifact.new_file("verdict.txt", mode="w", encoding="utf-8") as file:
            file.write(verdict.lines)
        if verdict.page:
            artifact.add_file(str(verdict.page), name="report.html")
        self._run.log_artifact(artifact)

    def close(self, status: Status) -> None:
        """See `Logger`."""
        self._run.finish(exit_code=_EXIT[status])

    def where(self) -> str:
        """See `Logger`."""
        if self._run.settings.mode == "online":
            return str(self._run.url)
        return f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"

    def _picture(self, picture: Any, caption: str) -> Any:
        return None if picture is None else self._wandb.Image(picture, caption=caption)


def held_offline(folder: Path, run_id: str) -> int | None:
    """The last step in the offline runs of this id in `folder`, by W&B's own reader; None where that cannot be run."""
    last = 0
    for path in folder.glob(f"offline-run-*-{run_id}"):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_READING, stdin=subprocess.DEVNULL)
            records = [json.loads(line) for line in done.stdout.splitlines()]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
        if done.returncode and not records:
            return None
        last = max([last, *(record["history"]["step"]["num"] for record in records if record["type"] == "history")])
    return last


def require_login() -> None:
    """Raise UserError where W&B would send the run and nobody is logged in: it would ask on the terminal."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or importlib.util.find_spec("wandb") is None:
        return
    try:
        import wandb
        from wandb.sdk.lib.wbauth import authenticate_session

        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        known = settings.mode != "online" or authenticate_session(
            host=settings.base_url, source="mlx_phi3v", prompt=False, update_session=False
        )
    except Exception:  # another version of wandb: it says itself what it lacks
        return
    if not known:
        raise UserError("--report-to wandb: nobody is logged in to W&B; run `wandb login`, or set WANDB_MODE=offline")
