"""Progress bars with rate and time left on a terminal; nothing off one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")


class Bar:
    """One bar. Calls are cheap off a terminal."""

    def __init__(self, progress: RichProgress | None, name: str, total: int, unit: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total or None, unit=unit, note="") if progress else None

    def advance(self, amount: int) -> None:
        """Count `amount` more."""
        if self._progress and self._task is not None:
            self._progress.advance(self._task, amount)

    def update(self, done: int, *, failed: int) -> None:
        """Set what is done, and how much of it failed."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done, note=f"[red]{failed} failed" if failed else "")


class Progress:
    """Makes bars, one after the other, on standard error if that is a terminal and `quiet` is false."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    @contextlib.contextmanager
    def bar(self, name: str, total: int, *, unit: str = "rows") -> Iterator[Bar]:
        """A bar over `total` things; an estimate will do."""
        if not self._shown:
            yield Bar(None, name, total, unit)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with RichProgress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as progress:
            yield Bar(progress, name, total, unit)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step whose length is not known: its name with a spinner."""
        if not self._shown:
            yield
            return
        with Console(stderr=True).status(name):
            yield
