"""One input at a time, watched: what it raises, what it opens outside its folder, how long it takes, how much it holds."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError, shown

MOST_SECONDS = 10.0  # of the processor, so that a busy machine changes nothing
MOST_BYTES = 2 << 30
# Escapes and bidirectional overrides: no output of ours may hold them.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ROOT = Path(__file__).resolve().parents[2]


class TooLongError(BaseException):
    """An input took more than MOST_SECONDS."""


@dataclass(frozen=True)
class Failure:
    """An input that did what none may: `what` and `where` tell failures of one cause from others."""

    what: str
    where: str
    number: int
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def peak_bytes() -> int:
    """The most memory that this process has held; `getrusage` on Linux may give that of the one it was started by."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _notes_reading(folder: Path) -> bool:
    """Whether this file system notes when a file was read: a disk mounted with noatime does not."""
    path = next(folder.iterdir())
    os.utime(path, (1, 2))
    path.read_bytes()
    return path.stat().st_atime != 1


class Watch:
    """Runs inputs in `folder`. `outside` is a folder beside it whose files must not be read, natively either.

    may_read: names in `outside`, and whole paths, that may be read all the same.
    """

    def __init__(self, folder: Path, outside: Path, may_read: Sequence[str] = ()) -> None:
        self.folder, self.outside, self.may_read = folder, outside, tuple(may_read)
        self.failures: list[Failure] = []
        self.number = 0
        self.accepted = 0
        self.slowest = 0.0
        self._opened: list[str] = []
        self._active = False
        self._allowed = tuple(str(path) for path in {folder, folder.resolve()})
        self._harmless = (
            str(_ROOT),
            sys.prefix,
            sys.base_prefix,
            *sys.path[1:],
            "/proc/",
            "/sys/",
            "/dev/null",
            "/dev/urandom",
        )
        self._notes_reading = _notes_reading(outside)
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGPROF, self._late)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._active and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            self._opened.append(os.fsdecode(arguments[0]))

    def _late(self, number: int, frame: object) -> None:
        raise TooLongError

    def run(self, entry: Callable[[], object]) -> None:
        """Run an input and keep what it did wrong."""
        self.number += 1
        self._opened.clear()
        before, began, output = peak_bytes(), time.process_time(), io.StringIO()
        self._touch()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            self._active = True
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                entry()
            self.accepted += 1
        except UserError as error:
            output.write(shown(str(error)))
            if not str(error).strip():
                self._fail("a sentence without words", error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self._fail(type(error).__name__, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._active = False
        self.slowest = max(self.slowest, time.process_time() - began)
        self._look_outside()
        acts = _ACTS.search(output.getvalue())
        if acts:
            self._keep("text that acts", f"{acts[0]!r}", output.getvalue()[max(0, acts.start() - 200) : acts.end() + 50])
        if before < MOST_BYTES <= peak_bytes():
            self._keep("memory", "", f"{peak_bytes():,} bytes")

    def _touch(self) -> None:
        """Make files outside older in their reading than in their writing: the system notes the next reading then."""
        for path in self.outside.iterdir():
            os.utime(path, (1, 2))

    def _look_outside(self) -> None:
        for path in self.outside.iterdir() if self._notes_reading else ():
            if path.stat().st_atime != 1 and path.name not in self.may_read:
                self._keep("a file outside was read", path.name, str(path))
        for name in self._opened:
            place = os.path.abspath(name)
            if place in self.may_read:
                continue
            if os.path.dirname(os.path.realpath(place)) == str(self.outside) and os.path.basename(place) in self.may_read:
                continue
            if not place.startswith(self._allowed) and not place.startswith(tuple(filter(None, self._harmless))):
                self._keep("a file outside was opened", re.sub(r"\W.*", "", place[1:]), place)

    def _fail(self, what: str, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename.startswith(str(_ROOT)) and "/tests/" not in frame.filename]
        last = (ours or list(frames))[-1]
        where = f"{os.path.relpath(last.filename, _ROOT)}:{last.name}"
        self._keep(what, where, "".join(traceback.format_exception(error))[-3000:])

    def _keep(self, what: str, where: str, detail: str) -> None:
        self.failures.append(Failure(what, where, self.number, detail))
