"""Python imports this at its start where the folder is on PYTHONPATH: it kills the process before its n-th write.

KILL_ROOT: only writes below this folder count. KILL_AT: which one; 0 for none. KILL_LOG: a file that gets a line for each.
KILL_SIGNAL: the number of the signal that it is sent.
A write is a file opened for writing, a rename, link or removal, a folder made or removed, an SQLite file opened, an fsync.
"""

from __future__ import annotations

import os
import sys
from typing import Any

ROOT, AT, LOG = os.environ["KILL_ROOT"], int(os.environ["KILL_AT"]), os.environ["KILL_LOG"]
SECOND = {"os.rename", "os.link", "os.symlink"}
FIRST = {"os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "sqlite3.connect"}
count, busy = 0, False


def hit(what: str, path: Any) -> None:
    global count
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    if not os.path.abspath(name).startswith(ROOT):
        return
    count += 1
    number = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(number, f"{count} {what} {name}\n".encode("utf-8", "surrogateescape"))
    os.close(number)
    if count == AT:
        os.kill(os.getpid(), int(os.environ["KILL_SIGNAL"]))


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    global busy
    if busy:
        return
    busy = True
    try:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                hit("open", path)
        elif event in SECOND:
            hit(event, arguments[1])
        elif event in FIRST:
            hit(event, arguments[0])
    finally:
        busy = False


def fsync(file: Any, real: Any = os.fsync) -> None:
    global busy
    busy = True
    try:
        path = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
    finally:
        busy = False
    hit("fsync", path)
    real(file)


sys.addaudithook(watch)
os.fsync = fsync  # type: ignore[assignment]
