"""Commands run at the same time, with a bar for each."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlx_phi3v.commands import child_command, child_environment
from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import result

from ..runs.run import Run

_GRACE_SECONDS = 10.0  # what a command has to end in


@dataclass
class Job:
    """One command of a stage. `work` is its share of the overall bar."""

    label: str
    module: str
    arguments: list[str]
    work: float
    run: Path | None = None  # the run that it writes
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
        """Say what begins and, at its end, how long it took: on the clock, and of all cores together."""
        started, worked = time.monotonic(), _child_seconds()
        self.say(f"{text} ...")
        yield
        seconds, cpu = time.monotonic() - started, _child_seconds() - worked
        self.say(f"{text}: {seconds:.0f} s ({cpu:.0f} s of processor time)")
        result(self.as_json, event="stage", stage=text, seconds=round(seconds, 1), cpu_seconds=round(cpu, 1))

    def say(self, text: str) -> None:
        """A line above the bars."""
        if not self.as_json:
            self.bars.console.print(
                f"[dim]{time.monotonic() - self.started:5.0f} s[/]  {escape(text)}", highlight=False, soft_wrap=True
            )

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


def _child_seconds() -> float:
    """Processor time of the commands that have ended; 0 on Windows, which does not count it."""
    times = os.times()
    return times.children_user + times.children_system


def _note(event: dict[str, Any]) -> str:
    shown = {"loss": "loss {:.3f}", "rows_per_second": "{:.1f} rows/s", "val_loss": "validation {:.3f}"}
    return "  ".join(text.format(event[key]) for key, text in shown.items() if key in event)


@dataclass
class _Running:
    """A job that runs, the jobs of its chain that come after it, and what it wrote to stderr."""

    job: Job
    process: subprocess.Popen[str]
    rest: list[Job]
    errors: list[str] = field(default_factory=list)


def run_jobs(jobs: Sequence[Job], display: Display) -> None:
    """Run commands at the same time, the cores shared out among them. Raises UserError with the message of one that fails."""
    run_chains([[job] for job in jobs], display, at_once=len(jobs))


def unfinished(chains: Iterable[Sequence[Job]]) -> list[list[Job]]:
    """The chains without the jobs whose runs are finished; without a run to write, a chain is left out."""
    left = ([job for job in chain if not (job.run and _is_finished(job.run))] for chain in chains)
    return [chain for chain in left if any(job.run for job in chain)]


def _is_finished(run: Path) -> bool:
    return (run / "manifest.json").is_file() and Run.load(run).whole


def run_chains(chains: Iterable[Sequence[Job]], display: Display, *, at_once: int) -> None:
    """Run chains of commands, each command after the one before it, `at_once` chains at a time and in the given order.

    Raises UserError with the message of a command that fails; the others are ended.
    """
    # Half of the cores for a command alone: a thread on each waits for the slowest as soon as anything else runs.
    environment = _environment(max(1, (os.cpu_count() or 2) // max(at_once, 2)))
    waiting = deque(list(chain) for chain in chains if chain)
    running: list[_Running] = []
    ended: queue.SimpleQueue[_Running] = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.popleft(), display, environment, ended))
            item = ended.get()
            running.remove(item)
            _check(item, item.process.wait())
            if item.rest:
                running.append(_start(item.rest, display, environment, ended))
    finally:
        end_processes([item.process for item in running if item.process.poll() is None])


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return (
        child_environment()
        | dict.fromkeys(names, str(threads))
        | {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    )


def _start(chain: Sequence[Job], display: Display, environment: dict[str, str], ended: queue.SimpleQueue[_Running]) -> _Running:
    """Start the first job of a chain. At its end it is put into `ended`."""
    job = chain[0]
    command = [*child_command(job.module), *job.arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    item = _Running(job, process, list(chain[1:]))
    listener = threading.Thread(target=lambda: item.errors.extend(process.stderr or ()), daemon=True)

    def follow() -> None:
        display.follow(job, process.stdout)
        listener.join()
        ended.put(item)

    listener.start()
    threading.Thread(target=follow, daemon=True).start()
    return item


def _check(item: _Running, status: int) -> None:
    """Raise UserError where the command failed, with its own message."""
    if status:
        messages = [line.strip() for line in item.errors if line.strip()]
        ours = [line.removeprefix("error: ") for line in messages if line.startswith("error: ")]
        raise UserError(
            f"{item.job.label} failed: {ours[-1] if ours else ' | '.join(messages[-3:]) or f'exit status {status}'}"
        )


def end_processes(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask them to end, all at once; a checkpoint may take a while to write, but not for ever."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
