"""Kill this process, as it were, before any of its write-like calls below a folder, and go on as another."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PATH_OF = {"os.rename": 1, "os.link": 1, "os.symlink": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


class _Watch:
    """Counts the calls below `root`; from number `at` on each one raises: the dead do not tidy up either."""

    root: str | None = None
    at: int | None = None
    events: list[str]
    hooked = False

    def hit(self, event: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if self.root is None or not name.startswith(self.root):
            return
        self.events.append(f"{event} {name.removeprefix(self.root)}")
        if self.at is not None and len(self.events) >= self.at:
            raise Killed

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open":
            path, _, flags = arguments
            if flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.hit(event, path)
        elif event in _PATH_OF:
            self.hit(event, arguments[_PATH_OF[event]])


_watch = _Watch()


@contextlib.contextmanager
def killed_before(number: int | None, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Run the block up to its call `number` (from 1) that opens for writing, renames, links, removes, makes or syncs.

    None: to its end. Yields the list of the calls so far. Raises Killed.
    """
    if not _watch.hooked:
        sys.addaudithook(_watch.hook)
        _watch.hooked = True
    sync = os.fsync

    def fsync(file: int) -> None:
        _watch.hit("fsync", os.readlink(f"/proc/self/fd/{file}"))
        sync(file)

    with monkeypatch.context() as patch:
        if Path("/proc/self/fd").exists():
            patch.setattr(os, "fsync", fsync)
        _watch.root, _watch.at, _watch.events = str(root), number, []
        try:
            yield _watch.events
        finally:
            _watch.root = None
