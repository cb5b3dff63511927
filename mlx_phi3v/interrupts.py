"""SIGINT, SIGTERM and SIGHUP: one line, the exit status of the signal, and no process left behind.

`begin` is called as the package is imported, which is before anything heavy is: a Ctrl-C while numpy loads would else end
in a traceback. It does nothing in a program that only uses the package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_COMMAND = "MLX_PHI3V_COMMAND"  # the process id of the command, for its worker processes
_PACKAGES = ("mlx_phi3v", "data", "eval")
_AGAIN_SECONDS = 2.0  # `timeout` and some shells send a signal twice; later than this it is meant
_LATE_SECONDS = 10.0  # after which children that still run are ended, whatever the parent waits for
_GRACE_SECONDS = 3.0  # what a child has to end by itself

_received: int | None = None
_received_at = 0.0


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; raised in the main thread."""


def begin() -> None:
    """Answer signals from now on, if this process is one of our commands or one of its workers."""
    if threading.current_thread() is not threading.main_thread():
        return
    if is_command(sys.orig_argv):
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _leave_at_once)
    elif "--multiprocessing-fork" in sys.orig_argv and os.environ.get(_COMMAND) == str(os.getppid()):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
        threading.Thread(target=_end_with_parent, daemon=True).start()


def is_command(argv: list[str]) -> bool:
    """Whether a command line is `python -m` of ours, or an installed command."""
    for place, argument in enumerate(argv[1:], 1):
        if argv[place - 1] in ("-X", "-W"):
            continue  # what these options take
        if argument == "-m":
            module = argv[place + 1] if place + 1 < len(argv) else ""
            return module.partition(".")[0] in _PACKAGES
        if argument.startswith("-m"):
            return argument[2:].partition(".")[0] in _PACKAGES
        if argument == "-c":
            return False
        if not argument.startswith("-"):
            name = os.path.basename(argument)
            return name.startswith("mlx_phi3v.") and not name.endswith(".py")
    return False


def install() -> None:
    """Raise `Stopped` at a signal from now on. A signal that the command was started to ignore (nohup) stays ignored."""
    os.environ[_COMMAND] = str(os.getpid())
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _leave_at_once):
            signal.signal(number, _raise)
    sys.unraisablehook = _unraisable


def received() -> int | None:
    """The signal that came, if one did."""
    return _received


def _leave_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Before the command began: nothing is written and no process started."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    global _received, _received_at
    now = time.monotonic()
    if _received is None:
        _received, _received_at = number, now
        threading.Thread(target=_end_late_children, daemon=True).start()
        raise Stopped
    if now - _received_at > _AGAIN_SECONDS:  # cleaning up takes the user too long
        end_children()
        os.write(2, b"interrupted\n")
        os._exit(128 + number)


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came inside a destructor is lost there: raise it again in a moment."""
    if unraisable.exc_type is Stopped and _received is not None:
        timer = threading.Timer(0.05, _again, (_received,))
        timer.daemon = True
        timer.start()
    elif _received is None:
        sys.__unraisablehook__(unraisable)


def _again(number: int) -> None:
    global _received
    _received = None
    signal.raise_signal(number)


def end_children() -> None:
    """End every process that this one started and that still runs."""
    import psutil

    try:
        children = psutil.Process().children(recursive=True)
        # multiprocessing's own helper ends by itself, and ignores SIGTERM.
        children = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    except psutil.Error:
        return
    _each(children, "terminate")
    _, alive = psutil.wait_procs(children, _GRACE_SECONDS)
    _each(alive, "kill")


def _each(processes: list[Any], verb: str) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, verb)()


def _end_late_children() -> None:
    """Workers that are amid a long piece of work do not hold up the end."""
    time.sleep(_LATE_SECONDS)
    end_children()


def _end_with_parent() -> None:
    """A worker does not notice when its parent is killed; it would wait for work for ever."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
