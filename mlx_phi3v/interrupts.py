"""SIGINT, SIGTERM and SIGHUP: one line, the exit status of the signal, and no process left behind.

`startup` answers them until a command begins, `install` from then on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

from .startup import COMMAND, SIGNALS, is_default, leave_at_once

_AGAIN_SECONDS = 2.0  # `timeout` and some shells send a signal twice; later than this it is meant
_LATE_SECONDS = 10.0  # after which children that still run are ended, whatever the parent waits for
_GRACE_SECONDS = 3.0  # what a child has to end by itself
_REPEAT_SECONDS = 0.5  # what the main thread has to answer a signal, before it is woken

_received: int | None = None
_received_at = 0.0
_wakes = False


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; raised in the main thread."""


def install() -> None:
    """Raise `Stopped` at a signal from now on."""
    os.environ[COMMAND] = str(os.getpid())
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if is_default(number):
            signal.signal(number, _raise)
    _wake_main_thread()
    sys.unraisablehook = _unraisable
    threading.excepthook = _failed_thread
    atexit.register(_ignore)  # before all others, so it is called after them


def _wake_main_thread() -> None:
    """Send the main thread each signal again that it does not answer.

    One that another thread took, or that came in the moment before the main thread began to wait for a lock, does not wake
    it: the wait goes on (https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers).
    """
    global _wakes
    if _wakes or not hasattr(signal, "pthread_kill"):  # Windows has none
        return
    _wakes = True
    heard, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    threading.Thread(target=_repeat, args=(heard, threading.main_thread().ident), daemon=True).start()


def _repeat(heard: int, main_thread: int) -> None:
    while number := os.read(heard, 1):
        pause = _REPEAT_SECONDS
        time.sleep(pause)
        while _received is None and signal.getsignal(number[0]) is _raise:
            signal.pthread_kill(main_thread, number[0])
            pause *= 2  # it may be amid a long piece of work, outside Python
            time.sleep(pause)


def done() -> None:
    """The command has ended but for Python's own end: a signal now ends the process at once, as before it began."""
    if _received is None:
        _replace(_raise, leave_at_once)


def _ignore() -> None:
    """Python puts the default back while it ends, which a signal ends without a word; there is nothing left to stop."""
    _replace(_raise, signal.SIG_IGN)
    _replace(leave_at_once, signal.SIG_IGN)


def _replace(ours: Any, other: Any) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in SIGNALS:
            if signal.getsignal(number) is ours:
                signal.signal(number, other)


def received() -> int | None:
    """The signal that came, if one did."""
    return _received


def _raise(number: int, frame: object) -> None:
    global _received, _received_at
    now = time.monotonic()
    if _received is None:
        _received, _received_at = number, now
        threading.Thread(target=_end_late_children, daemon=True).start()
        raise Stopped
    if now - _received_at > _AGAIN_SECONDS:  # cleaning up takes the user too long
        end_children()
        leave_at_once(number, frame)


def _failed_thread(failed: threading.ExceptHookArgs) -> None:
    """Once a signal came, a thread of a pool whose work is dropped fails: Python 3.11's trips over its cancelled futures."""
    if _received is None:
        threading.__excepthook__(failed)


def _unraisable(unraisable: Any) -> None:
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
    os.kill(os.getpid(), number)


def end_children() -> None:
    """End every process that this one started and that still runs."""
    import psutil

    try:
        children = [child for child in psutil.Process().children(recursive=True) if not _ends_by_itself(child)]
    except psutil.Error:
        return
    _each(children, "terminate")
    _, alive = psutil.wait_procs(children, _GRACE_SECONDS)
    _each(alive, "kill")


def _ends_by_itself(process: Any) -> bool:
    """Whether it has ended already, or is multiprocessing's own helper, which ignores SIGTERM and ends with its parent."""
    import psutil

    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:  # one that has ended must not keep the others alive
        return True


def _each(processes: list[Any], verb: str) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, verb)()


def _end_late_children() -> None:
    """Workers that are amid a long piece of work do not hold up the end."""
    time.sleep(_LATE_SECONDS)
    end_children()
