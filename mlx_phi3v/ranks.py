"""Several processes that train together: they must train the same, and none waits for another for ever."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from . import __version__
from .backend import Backend
from .errors import UserError, say_line
from .interrupts import end_children

LOST = "the connection to another rank was lost: it has ended, and said why"
ALONE = contextlib.nullcontext()  # instead of `meeting`, where there is nobody to meet
TIMEOUT = 600.0  # seconds that ranks wait for each other, unless --rank-timeout says otherwise
_NO_LIMIT = float("inf")


def require_agreement(backend: Backend, facts: Mapping[str, object]) -> None:
    """Compare what each rank is about to do, by name. All ranks call it with the same names, and all raise together.

    Raises UserError that names each rank that differs from rank 0, and in what; another version of this code first, as its
    names may be others.
    """
    _, ranks = backend.world()
    if ranks == 1:
        return
    for compared in ({"the version of this code": _code_version(), "the names of its settings": sorted(facts)}, facts):
        table = _all_digests(backend, list(compared.values()))
        differing = [
            f"rank {rank} in {', '.join(name for name, same in zip(compared, table[rank] == table[0]) if not same)}"
            for rank in range(1, ranks)
            if (table[rank] != table[0]).any()
        ]
        if differing:
            raise UserError(
                f"the ranks do not train the same: {'; '.join(differing)} (against rank 0); give every rank the same code, "
                "model, catalogue and flags"
            )


def _all_digests(backend: Backend, values: list[object]) -> np.ndarray:
    """A digest of every value on every rank, int32 [ranks, values]: each rank adds its row to zeros."""
    rank, ranks = backend.world()
    table = np.zeros((ranks, len(values)), np.int32)
    table[rank] = np.array([zlib.crc32(repr(value).encode()) for value in values], np.uint32).view(np.int32)
    return backend.all_sum(table)


@functools.cache
def _code_version() -> str:
    """The version, and a digest of the source files."""
    digest = hashlib.sha256(__version__.encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder).as_posix()).encode() + path.read_bytes())
    return digest.hexdigest()


class TimeLimit:
    """Ends this process where it waits for the other ranks for more than `seconds`.

    A collective that waits can't be called off from within, on either framework. So a thread prints `sentence()` and leaves,
    with exit status 1; the other ranks find the connection lost, or come to the end of their own limit.
    seconds: infinite where there is nobody to wait for.
    """

    def __init__(self, seconds: float, sentence: Callable[[], str]) -> None:
        self._seconds, self._sentence = seconds, sentence
        self._ends_at = _NO_LIMIT
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._leaving = threading.Lock()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the other ranks in this block."""
        if self._seconds == _NO_LIMIT:
            yield
            return
        self._set(time.monotonic() + self._seconds)
        try:
            yield
        finally:
            self._set(_NO_LIMIT)

    def _set(self, ends_at: float) -> None:
        with self._changed:
            self._ends_at = ends_at
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="time limit of the ranks")
                self._thread.start()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                left = self._ends_at - time.monotonic()
                if left <= 0:
                    self.leave()
                self._changed.wait(None if left == _NO_LIMIT else min(left, threading.TIMEOUT_MAX))

    def leave(self) -> NoReturn:
        """End this process with the sentence, which is said once: a thread and a signal may both come here at one moment."""
        self._leaving.acquire()
        say_line(f"error: {self._sentence()}")
        end_children()
        os._exit(1)


@contextlib.contextmanager
def meeting(seconds: float) -> Iterator[None]:
    """Wait in this block for ranks that may never start, for at most `seconds`: then this process ends as by `TimeLimit`.

    MLX keeps Python's lock while it waits for a connection, so that no thread of Python runs. A signal ends that wait.
    """
    limit = TimeLimit(
        seconds, lambda: f"the other ranks were not all there after {seconds:g} s; start all of them at about the same time"
    )
    alarm = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    before = signal.signal(signal.SIGALRM, lambda *_: limit.leave()) if alarm else None
    try:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        with limit.waiting():
            yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
