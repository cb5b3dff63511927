"""How worker processes start: blind to the signals that the terminal sends to a command and its workers alike."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from . import startup

# SIGTERM is not among them: it ends a worker.
_TERMINALS = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}

_NOTICE_SECONDS = 1.0  # in which the pool itself notices a worker that died between two answers


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
    parent = parent_process()
    if parent and parent.pid:
        startup.end_with_parent(parent.pid)


class Worker(SpawnProcess):
    """A worker process."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's own hook
        with _held_back():
            return SpawnProcess._Popen(process_obj)


class WorkerContext(SpawnContext):
    """What a pool starts its processes by."""

    Process = Worker


class WorkerPool(ProcessPoolExecutor):
    """A pool that breaks, as it should, where a worker is killed amid its answer.

    The standard one waits for the rest for ever: it holds an end of the pipe to write into, which only workers need, and
    the other workers wait for their turn to write.
    """

    def __init__(self, processes: int, start: Callable[..., None], arguments: tuple[Any, ...] = ()) -> None:
        super().__init__(processes, worker_context(), start, arguments)
        self._full = self._ending = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the standard pool."""
        future = super().submit(fn, *args, **kwargs)
        own: Any = self
        if not self._full and len(own._processes) >= own._max_workers:  # no further worker will inherit that end
            self._full = True
            self._let_go()
            threading.Thread(target=self._watch, args=(list(own._processes.values()),), daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As the standard pool."""
        self._ending = True
        self._let_go()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _let_go(self) -> None:
        with contextlib.suppress(AttributeError):  # after its end, or in a Python that names it otherwise
            own: Any = self
            own._result_queue._writer.close()

    def _watch(self, workers: list[SpawnProcess]) -> None:
        """One worker has died while there is work: end the others, so that the pipe has no writer left."""
        wait([worker.sentinel for worker in workers])
        time.sleep(_NOTICE_SECONDS)
        for worker in workers:
            if not self._ending and worker.is_alive():
                worker.terminate()


def worker_context() -> WorkerContext:
    """A context for `ProcessPoolExecutor` whose workers leave Ctrl-C and a closed terminal to the command."""
    with _held_back():
        resource_tracker.ensure_running()
    return WorkerContext()
