"""Answers signals from the first moment: a Ctrl-C while numpy is imported would else end in a traceback.

`begin` is called as the package is imported. It does nothing in a program that only uses the package. This module imports
nothing that Python has not loaded already, as a signal may come meanwhile.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the built-in part of `signal`
import os
import sys

SIGNALS = tuple(getattr(_signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(_signal, name))
COMMAND = "MLX_PHI3V_COMMAND"  # in the environment: the process id of the command, for its worker processes
_PACKAGES = ("mlx_phi3v", "data", "eval")
_LOOK_SECONDS = 0.5  # how often a child looks whether its parent is there
_GRACE_SECONDS = 10.0  # what it then has to end in
_watched = False


def begin() -> None:
    """Answer signals from now on, if this process is one of our commands or one of its workers."""
    try:
        if is_command(sys.orig_argv):
            for number in SIGNALS:
                if is_default(number):
                    _signal.signal(number, leave_at_once)
            if _started_by_command():
                end_with_parent(os.getppid(), politely=True)
        elif "--multiprocessing-fork" in sys.orig_argv and _started_by_command():
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # Ctrl-C is the parent's to answer
            end_with_parent(os.getppid())
    except ValueError:  # not in the main thread: then this is no command
        return


def is_default(number: int) -> bool:
    """Whether nobody has decided on a signal. One that the command was started to ignore (nohup) stays ignored."""
    return _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler, leave_at_once)


def is_command(argv: list[str]) -> bool:
    """Whether a command line is `python -m` of ours, or an installed command."""
    for place, argument in enumerate(argv[1:], 1):
        if argv[place - 1] in ("-X", "-W"):
            continue  # what these options take
        if argument == "-m":
            module = argv[place + 1] if place + 1 < len(argv) else ""
            return module.partition(".")[0] in _PACKAGES
        if argument == "-c":
            return False
        if not argument.startswith("-"):
            name = os.path.basename(argument)
            return name.startswith("mlx_phi3v.") and not name.endswith(".py")
    return False


def leave_at_once(number: int, frame: object) -> None:
    """Before the command began: nothing is written and no process started."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def end_with_parent(parent: int, *, politely: bool = False) -> None:
    """End this process once its parent is gone: a worker would wait for work for ever, a command of the demo go on alone.

    parent: its process id, as it knows it itself: it may be gone before anyone looks. politely: as SIGTERM does, so that a
    command removes what is not whole. The first call decides.
    """
    global _watched
    if _watched:
        return
    _watched = True
    import threading  # only such processes need it

    threading.Thread(target=_watch, args=(parent, politely), daemon=True).start()


def _watch(parent: int, politely: bool) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    if politely:
        os.kill(os.getpid(), _signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _started_by_command() -> bool:
    """Whether one of our commands is this process's parent. Where it has been killed already, this process ends."""
    command = os.environ.get(COMMAND, "")
    if command == str(os.getppid()):
        return True
    if os.name == "posix" and command.isdecimal() and len(command) < 10:
        try:
            if os.getppid() == 1:  # it was killed, and nobody has asked for its status yet
                raise ProcessLookupError
            os.kill(int(command), 0)
        except ProcessLookupError:
            leave_at_once(_signal.SIGTERM, None)
        except OSError:
            pass
    return False
