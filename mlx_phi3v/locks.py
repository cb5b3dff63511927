"""One process at a time writes an output: a lock on the folder or file itself, which the system takes back at a kill.

`flock` of the open folder leaves no lock file behind, so none can be stale. Where the system has none (Windows, some
network disks) an output is written without: the user must then avoid two writers.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

if sys.platform != "win32":
    import fcntl


class BeingWritten(UserError):
    """Another process holds what was to be written."""


@contextlib.contextmanager
def locked(path: Path, output: Path | None = None, *, folder: bool = False) -> Iterator[None]:
    """Hold `path`, a file or a folder, until the block ends; it is made where it is missing.

    output: what messages call it, where `path` is a temporary name. Raises UserError where another process holds it.
    """
    number = _lock(path, output or path, folder)
    try:
        yield
    finally:
        if number is not None:
            os.close(number)


def hold(folder: Path) -> None:
    """Hold a folder until the process ends, where this system has locks."""
    _lock(folder, folder, folder=True)


def is_abandoned(path: Path) -> bool:
    """Whether surely no process holds `path`: false where this system or disk has no locks, or it cannot be opened."""
    if sys.platform == "win32":
        return False
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(number)
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds `path`; false where it is gone."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(number)
    finally:
        os.close(number)


def _lock(path: Path, output: Path, folder: bool) -> int | None:
    """The open file that holds the lock; None where this system has none."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        if sys.platform == "win32":
            return None
        try:
            number = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if folder:  # the process that held it has just put it in place
                continue
            raise
        try:
            if not _take(number):
                raise BeingWritten(f"another process is writing {output}; wait for it to end, or choose another path")
            if _still_there(path, number):
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)  # it was renamed or removed before it was locked: lock what stands there now


def _take(number: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this disk has no locks
        return True
    return True


def _still_there(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(number))
    except FileNotFoundError:
        return False
