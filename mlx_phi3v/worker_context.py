"""How worker processes start: blind to the signals that the terminal sends to a command and its workers alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from . import startup

# SIGTERM is not among them: it ends a worker.
_TERMINALS = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Hold the terminal's signals back meanwhile; a process that is started inherits that for its life, this one goes on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker() -> None:
    """For the initializer of a pool: the worker leaves Ctrl-C to its parent and ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    startup.end_with_parent()


class Worker(SpawnProcess):
    """A worker process."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's own hook
        with _held_back():
            return SpawnProcess._Popen(process_obj)


class WorkerContext(SpawnContext):
    """What a pool starts its processes by."""

    Process = Worker


def worker_context() -> WorkerContext:
    """A context for `ProcessPoolExecutor` whose workers leave Ctrl-C and a closed terminal to the command."""
    with _held_back():
        resource_tracker.ensure_running()
    return WorkerContext()
