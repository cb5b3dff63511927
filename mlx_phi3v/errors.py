"""The one exception that a user may see (a sentence that names the file, row or flag, and the fix), and how a command ends.

Exit statuses: 1 for a mistake (2 in `eval.compare`, where 1 means WORSE or BETTER), 3 where a check of `doctor` fails, 70
for a fault of ours, 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from . import interrupts
from .commands import installed
from .redaction import redacted
from .system_errors import os_sentence
from .text import printable

FAULT = 70  # EX_SOFTWARE of sysexits.h
_DEBUG = "MLX_PHI3V_DEBUG"
# What MLX on Metal and CUDA, torch on a CPU, CUDA and mps say where memory is full.
_NO_MEMORY = re.compile(r"metal::malloc|out of memory|can't allocate memory|[Uu]nable to allocate|bad_alloc")


class UserError(Exception):
    """A mistake in what the user gave: a file, a row or a flag. The message is all that is printed."""


def shown(text: str) -> str:
    """Text on one line, its control letters, escapes and bidirectional overrides written out, tokens hidden."""
    return printable(redacted(" ".join(text.split())))


def run_cli(main: Callable[[], int | None], mistake: int = 1) -> None:
    """Run a command's `main` and exit with its status: what `python -m` and the installed command both call.

    A `UserError` prints as one line and exits with `mistake`; so does what the system says of a path (a full disk, no
    rights). SIGINT, SIGTERM and SIGHUP end the command and its processes. Anything else is a fault of ours: one line,
    with the file that holds the traceback.
    """
    if installed():  # sys.path has no current folder then, nor may that of its worker processes
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    _open_missing_streams()
    _write_what_cannot_be_encoded()
    interrupts.install()
    try:
        status = main() or 0
        sys.stdout.flush()
    except SystemExit:  # of --help
        raise
    except BaseException as error:
        _leave(error, mistake)
    finally:
        interrupts.done()
    sys.exit(status)


def _leave(error: BaseException, mistake: int) -> NoReturn:
    """End with the line and the status that an exception asks for."""
    number = interrupts.received()
    if number is not None or isinstance(error, KeyboardInterrupt):
        say_line("interrupted")
        interrupts.end_children()
        sys.exit(128 + (number or 2))
    if isinstance(error, BrokenPipeError):
        # Python flushes at its end: to nowhere, or it would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    sentence = str(error) if isinstance(error, UserError) else _sentence(error)
    if sentence is not None:
        say_line(f"error: {sentence}")
        sys.exit(mistake)
    say_line(f"error: {report_fault(error)}")
    sys.exit(FAULT)


def _sentence(error: BaseException) -> str | None:
    """What a system's error says to the user; None where the error is not of the user's files."""
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        text = error.object[max(0, error.start - 60) : error.end + 20]
        return f"a name or text is not Unicode, near {text!r}; rename the file, or correct the text"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return (
            "there is not enough memory; end other programs, or lower --batch-size or --num-crops (mlx_phi3v.plan says what a "
            "training takes)"
        )
    return os_sentence(error) if isinstance(error, OSError) else None


def report_fault(error: BaseException) -> str:
    """The sentence for an unforeseen exception; its traceback goes into a file, and to stderr where MLX_PHI3V_DEBUG is set."""
    import tempfile  # neither is needed by a command that ends well
    import traceback

    trace = redacted("".join(traceback.format_exception(error)))
    if os.environ.get(_DEBUG):
        print(trace, file=sys.stderr)
    what = shown(f"{type(error).__name__}: {error}"[:3000])[:300]
    start = f"this is a fault of mlx-phi3v, not of yours: {what.rstrip(': ')}; "
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="mlx_phi3v-", suffix=".txt", delete=False
        ) as file:
            file.write(f"{redacted(repr(sys.argv))}\n{trace}")
    except OSError:
        return f"{start}set {_DEBUG}=1 to see the traceback, and please report it with the command"
    return f"{start}the traceback is in {file.name}; please report it with the command"


def say_line(line: str) -> None:
    """One line on stderr, shown as text."""
    with contextlib.suppress(OSError):  # nobody reads it
        print(shown(line), file=sys.stderr, flush=True)


def _open_missing_streams() -> None:
    """Open what the caller closed (`>&-`) onto nothing: the next file that is opened would take its number, and its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 the process keeps it


def _write_what_cannot_be_encoded() -> None:
    r"""Let stdout and stderr take every text: a letter that their encoding lacks is written as \u65e5, as JSON has it."""
    codecs.register_error("mlx_phi3v.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mlx_phi3v.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end
