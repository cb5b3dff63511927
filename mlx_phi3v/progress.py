"""Progress of long work: rich bars on a terminal, JSON lines with `--json`, silence otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import shown

if TYPE_CHECKING:  # imported where something is shown: --help needs none of it
    from rich.progress import Progress as RichProgress

T = TypeVar("T")
_JSON_SECONDS = 0.5  # at most this often does a JSON progress line appear
_SHORT_SECONDS = 2.0  # what takes less needs no bar


class Progress:
    """One bar. `advance` moves it and sets the figures behind it (loss, rate); `emit` prints a JSON line.

    Bars go to stderr, so that stdout holds results only.
    """

    def __init__(self, label: str, total: int, *, as_json: bool = False, done: int = 0) -> None:
        self.label, self.total, self.done, self.as_json = label, total, done, as_json
        self.fields: dict[str, Any] = {}
        self._spoken = 0.0
        self._bar = None if as_json else _terminal_bar()
        if self._bar:
            from rich.markup import escape

            self._task = self._bar.add_task(escape(shown(label)), total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        self._speak()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, amount: int = 1, **fields: Any) -> None:
        """Move the bar; `fields` (numbers) are shown behind it."""
        self.done += amount
        self.fields.update(fields)
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=_shown(self.fields))
        elif time.monotonic() - self._spoken >= _JSON_SECONDS or self.done >= self.total:
            self._speak()

    def emit(self, **fields: Any) -> None:
        """Print a JSON line now; the limit on progress lines does not apply."""
        if self.as_json:
            print(json.dumps(fields), flush=True)

    def _speak(self) -> None:
        self._spoken = time.monotonic()
        self.emit(event="progress", label=self.label, done=self.done, total=self.total, **self.fields)


def _terminal_bar() -> RichProgress | None:
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    from rich import progress

    return progress.Progress(
        progress.TextColumn("[bold]{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console,
    )


def _shown(fields: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items())


def result(as_json: bool, **fields: Any) -> None:
    """The outcome of a command, as one JSON line with `--json`."""
    if as_json:
        print(json.dumps(fields), flush=True)


def note(text: str) -> None:
    """A line that the user must not miss, on stderr: also without a terminal and with `--json`."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(f"note: {shown(text)}", markup=False, highlight=False)


def say(text: str, *, as_json: bool = False) -> None:
    """A line on the user's terminal; nothing with `--json` or without a terminal."""
    if not as_json and sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True).print(shown(text), markup=False)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A status line on a terminal; the yielded function sets its text. Shows nothing without a terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(escape(shown(stage)))


def watched(batches: Iterable[T], label: str, total: int, size: Callable[[T], int], *, as_json: bool = False) -> Iterator[T]:
    """Yield the batches, of `total` items together; a bar appears once they take more than two seconds."""
    began, done = time.monotonic(), 0
    bar: Progress | None = None
    try:
        for batch in batches:
            yield batch
            done += size(batch)
            if bar:
                bar.advance(size(batch))
            elif time.monotonic() - began > _SHORT_SECONDS:
                bar = Progress(label, total, as_json=as_json, done=done).__enter__()
    finally:
        if bar:
            bar.__exit__(None, None, None)
