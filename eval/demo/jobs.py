"""Commands run at the same time, with a bar for each."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlx_phi3v.commands import child_command, child_environment
from mlx_phi3v.errors import UserError

_GRACE_SECONDS = 10.0  # what a command has to end in


@dataclass
class Job:
    """One command of a stage. `work` is its share of the overall bar."""

    label: str
    module: str
    arguments: list[str]
    work: float
    summary: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0


class Display:
    """An overall bar and one bar per running command on a terminal; plain lines off it."""

    def __init__(self, total: float, console: Console, as_json: bool) -> None:
        self.console, self.as_json = console, as_json
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description:<28}"), BarColumn(bar_width=24), TaskProgressColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=console, disable=as_json or not console.is_terminal,
        )  # fmt: skip
        self.overall = self.bars.add_task("[bold]whole job", total=total, note="")

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Say what begins and, at its end, how long it took."""
        started = time.monotonic()
        self.say(f"{text} ...")
        yield
        self.say(f"{text}: {time.monotonic() - started:.0f} s")

    def say(self, text: str) -> None:
        """A line above the bars."""
        if not self.as_json:
            self.bars.console.print(f"[dim]{time.monotonic() - self.started:5.0f} s[/]  {escape(text)}", highlight=False)

    def follow(self, job: Job, stream: Any) -> None:
        """Move the bars by a command's JSON lines."""
        task = self.bars.add_task(f"  {job.label}", total=None, note="")
        for line in stream:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            with self.lock:
                if event.get("event") == "progress" and event["total"]:
                    share = job.work * event["done"] / event["total"]
                    self.bars.update(task, total=event["total"], completed=event["done"], note=_note(event))
                    self.bars.advance(self.overall, share - job.done)
                    job.done = share
                elif event.get("event") != "step":
                    job.summary = event
        with self.lock:
            self.bars.advance(self.overall, job.work - job.done)
            self.bars.remove_task(task)


def _note(event: dict[str, Any]) -> str:
    shown = {"loss": "loss {:.3f}", "rows_per_second": "{:.1f} rows/s", "val_loss": "validation {:.3f}"}
    return "  ".join(text.format(event[key]) for key, text in shown.items() if key in event)


def run_jobs(jobs: Sequence[Job], display: Display) -> None:
    """Run commands at the same time, the cores shared out among them. Raises UserError with the message of one that fails."""
    threads = str(max(1, (os.cpu_count() or 2) // len(jobs)))
    environment = child_environment() | {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    environment |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    running: list[tuple[Job, subprocess.Popen[str], threading.Thread, list[str]]] = []
    try:
        for job in jobs:
            command = [*child_command(job.module), *job.arguments, "--json"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            errors: list[str] = []
            threading.Thread(target=lambda stream=process.stderr, lines=errors: lines.extend(stream or ()), daemon=True).start()
            follower = threading.Thread(target=display.follow, args=(job, process.stdout), daemon=True)
            follower.start()
            running.append((job, process, follower, errors))
        for job, process, follower, errors in running:
            status = process.wait()
            follower.join()
            if status:
                messages = [line.strip() for line in errors if line.strip()]
                ours = [line.removeprefix("error: ") for line in messages if line.startswith("error: ")]
                raise UserError(
                    f"{job.label} failed: {ours[-1] if ours else ' | '.join(messages[-3:]) or f'exit status {status}'}"
                )
    finally:
        _end([process for _, process, _, _ in running if process.poll() is None])


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask them to end, all at once; a checkpoint may take a while to write, but not for ever."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
