"""Keeps a logger away from the training: its calls run in a thread of its own, and one that fails or hangs is left."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from ..progress import note
from ..ranges import short
from .logger import Logger, Status

MOST_WAITING = 1000  # calls; a logger that lets so many wait has stopped
CLOSE_SECONDS = 60.0  # what a logger has at the end to write or send what is left
TRAINING = "the training goes on without it, and log.jsonl holds every figure"


class Worker:
    """One logger behind a queue. No method raises or waits, but for `close`, which waits a while.

    The thread is a daemon: one that hangs does not keep the process.
    """

    def __init__(
        self, name: str, opened: Callable[[], Logger], *, most_waiting: int = MOST_WAITING, else_: str = TRAINING
    ) -> None:
        """else_: what the warning says of the work that the logger is kept away from."""
        self.name, self._else = name, else_
        self.failed = False
        self._open = opened
        self._calls: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(most_waiting)
        self._status: Status = "finished"
        self._where = ""
        self._warning = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"report to {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Logger], None]) -> None:
        """Have the thread make this call, after those before it."""
        if self.failed:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._leave("does not answer")

    def close(self, status: Status, seconds: float = CLOSE_SECONDS) -> str:
        """End the run, waiting at most so many seconds; where the user sees it, empty where it failed."""
        self._status = status
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            self._leave("does not answer")
        if not self.failed:
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._leave(f"did not end within {seconds:g} seconds")
        return "" if self.failed else self._where

    def _work(self) -> None:
        try:
            logger = self._open()
            while not self.failed and (call := self._calls.get()) is not None:
                call(logger)
            if not self.failed:
                self._where = logger.where()
                logger.close(self._status)
        except BaseException as error:  # SystemExit too: some libraries exit
            self._leave(f"failed ({short(_without_secrets(f'{type(error).__name__}: {error}'), 200, str)})")

    def _leave(self, why: str) -> None:
        """Warn, once, and make no further call."""
        with self._warning:
            if not self.failed:
                note(f"--report-to {self.name} {why}; {self._else}")
            self.failed = True


def _without_secrets(text: str) -> str:
    """The text without what the environment holds as a key, token or password."""
    for name, value in os.environ.items():
        if name.endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")) and len(value) >= 8:
            text = text.replace(value, "***")
    return text
