"""Kill a command before each of its writes in turn, give it again, and see whether it ends as if nothing had been.

`kill_everywhere` starts a process of its own, which imports the command once and forks for every kill. A kill point is an
open for writing, a rename, a removal, a folder made or removed, or a sync, in the command's folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .paths import ROOT

Command = Callable[[Path], object]  # given the folder it works in
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MADE = {"os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
_TIMES = ("start", "end", "seconds")  # of a manifest: they differ from run to run


def kill_everywhere(command: str, folder: Path) -> tuple[int, list[str]]:
    """(kills, what went wrong after them) for `command`, "module:function"; `folder` holds what it starts from."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.helpers.kill_points", command, str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["kills"], found["wrong"]


def contents(folder: Path) -> dict[str, Any]:
    """Every path below `folder`, hidden ones too, with what it holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "manifest.json":
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {**manifest, "ended": manifest.get("end") is not None} | dict.fromkeys(_TIMES)
        else:
            found[name] = path.read_bytes().decode("utf-8", "replace") if path.is_file() else None
    return found


def _watch(folder: Path, kill_at: int, counted: list[str]) -> None:
    """Count this process's kill points in `folder`, and die at the one numbered `kill_at` (from 1)."""
    root, sync = str(folder), os.fsync

    def hit(event: str, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(root):
            counted.append(f"{event} {os.fsdecode(path)}")
            if len(counted) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and (arguments[2] or 0) & _WRITES:
            hit(event, arguments[0])
        elif event == "os.rename":
            hit(event, arguments[1])
        elif event in _MADE:
            hit(event, arguments[0])

    def fsync(fd: Any) -> None:
        hit("fsync", root)
        sync(fd)

    sys.addaudithook(hook)
    os.fsync = fsync


def _fork(command: Command, folder: Path, kill_at: int) -> tuple[int, int]:
    """(exit status, negative for a signal; kill points) of the command in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with open(reading, "rb") as pipe:
            counted = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(counted or 0)
    status, points = 1, list[str]()
    try:
        _watch(folder, kill_at, points)
        with contextlib.redirect_stdout(open(os.devnull, "w")), contextlib.redirect_stderr(open(os.devnull, "w")):
            command(folder)
        status = 0
    except BaseException as error:
        print(f"after {points[-1:]}: {error!r}", file=sys.stderr)
    os.write(writing, str(len(points)).encode())
    os._exit(status)


def _main(name: str, prepared: Path) -> None:
    module, _, function = name.partition(":")
    command: Command = getattr(importlib.import_module(module), function)
    folder = prepared.with_name("killed")

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)

    fresh()
    status, points = _fork(command, folder, 0)
    assert status == 0
    whole, wrong = contents(folder), []
    for point in range(1, points + 1):
        fresh()
        killed, _ = _fork(command, folder, point)
        again, _ = _fork(command, folder, 0)
        found = contents(folder)
        if killed != -signal.SIGKILL or again != 0 or found != whole:
            differing = [key for key in sorted({*found, *whole}) if found.get(key, "gone") != whole.get(key, "gone")]
            wrong.append(f"kill {point}: ended {killed}, again {again}, differing {differing}")
    print(json.dumps({"kills": points, "wrong": wrong}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
