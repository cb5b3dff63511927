"""Signals: one line, the signal's exit status, and no process left, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from mlx_phi3v import interrupts, startup
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def start(mark: str, *arguments: object) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal starts it; `mark` is in the environment of all it starts."""
    line = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"TEST_MARK": mark}
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark and run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(mark: str, count: int) -> None:
    """Until the command runs so many processes; they come within seconds, and never if it is broken."""
    for _ in range(3000):
        if len(marked(mark)) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{len(marked(mark))} processes instead of {count}")


# Command -> its flags, and how many processes show that it is at work: itself, multiprocessing's helper, two workers.
COMMANDS: dict[str, tuple[list[object], int]] = {
    "data.sample": (["--products", 20000, "--processes", 2], 4),
    "data.ingest": (["--no-images", "--processes", 2], 4),
    "eval": (["--products", 150, "--test", 20], 2),
}


# Of each command every signal, and both ways; slow: each signal the other way.
ENDS = [
    pytest.param(
        module, whole, number, marks=[pytest.mark.slow] if (i + j + whole) % 2 else [], id=f"{module}-{way}-{number.name}"
    )
    for i, module in enumerate(COMMANDS)
    for j, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    for whole, way in enumerate(("command", "terminal"))
]


@pytest.mark.parametrize(("module", "whole_group", "number"), ENDS)
def test_a_signal_ends_a_command_and_its_processes(
    module: str, whole_group: int, number: signal.Signals, tmp_path: Path
) -> None:
    flags, processes = COMMANDS[module]
    if module == "data.ingest":
        pytest.importorskip("httpx")
        rows = "".join(f"Hat {i},{i}\n" for i in range(200_000))
        (tmp_path / "shop.csv").write_text("title,price\n" + rows)
        flags = [tmp_path / "shop.csv", "--no-images", *flags]
    mark = uuid.uuid4().hex
    running = start(mark, "-m", module, "--output", tmp_path / "out", *flags)
    wait_for(mark, processes)
    if whole_group:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 128 + number and errors == "interrupted\n"
    for _ in range(600):  # multiprocessing's helper sees the end of its pipe a moment later
        if not marked(mark):
            break
        time.sleep(0.1)
    assert marked(mark) == [] and not (tmp_path / "out" / "catalogue.json").exists()


@pytest.mark.parametrize("module", ["data.sample", "eval"])
def test_no_process_outlives_a_command_that_is_killed(module: str, tmp_path: Path) -> None:
    flags, processes = COMMANDS[module]
    mark = uuid.uuid4().hex
    running = start(mark, "-m", module, "--output", tmp_path / "out", *flags)
    wait_for(mark, processes)
    running.kill()
    running.wait()
    for _ in range(600):  # they look for their parent every half second; a command then ends as at SIGTERM
        if not marked(mark):
            break
        time.sleep(0.1)
    assert marked(mark) == []


def test_a_command_whose_parent_was_killed_before_it_began_ends() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    environment = os.environ | {startup.COMMAND: gone.stdout.strip()}
    line = [sys.executable, "-m", "data.sample", "--help"]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "interrupted\n")


def test_a_worker_whose_parent_was_killed_before_it_looked_ends() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    code = (
        f"import time; from mlx_phi3v import startup; startup.end_with_parent({int(gone.stdout)}); time.sleep(200); print('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


AT_START = """
import os, signal, sys
sys.orig_argv = [sys.executable, "-m", "mlx_phi3v.train"]
import mlx_phi3v
assert "numpy" not in sys.modules
os.kill(os.getpid(), signal.Signals[sys.argv[1]])
import numpy
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_before_anything_is_imported(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", AT_START, name], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + signal.Signals[name] and done.stderr == "interrupted\n"


AT_THE_END = """
import atexit, os, signal, sys
from mlx_phi3v.errors import run_cli
number, moment = signal.Signals[sys.argv[1]], sys.argv[2]
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=number):
        kill(process, number)  # at the very end, when Python has put its default handlers back
if moment == "end":
    late = Late()
def main():
    if moment == "exit":
        atexit.register(os.kill, os.getpid(), number)
    print("done")
run_cli(main)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("moment", "ignored"), [("exit", False), ("end", True)])
def test_a_signal_after_the_work_is_done(name: str, moment: str, ignored: bool) -> None:
    line = [sys.executable, "-c", AT_THE_END, name, moment]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    status = 0 if ignored else 128 + signal.Signals[name]
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\n", "" if ignored else "interrupted\n")


def test_a_program_that_uses_the_package_keeps_its_signals() -> None:
    code = "import signal, mlx_phi3v.train, eval.compare, data.sample\n"
    code += "print(signal.getsignal(2) is signal.default_int_handler, signal.getsignal(15) is signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("python -m mlx_phi3v.train --resume", True),
        ("python -P -X utf8 -m data.ingest x", True),
        ("python -m eval", True),
        ("python /usr/bin/mlx_phi3v.train --resume", True),
        ("python -m pytest -m eval", False),
        ("python -m evaluate", False),
        ("python -c pass -m eval", False),
        ("python mlx_phi3v.train.py", False),
        ("python", False),
    ],
)
def test_our_commands_are_told_from_other_programs(line: str, ours: bool) -> None:
    assert startup.is_command(line.split()) is ours


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert not startup.is_default(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert startup.is_default(signal.SIGHUP) and interrupts.received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_another_thread_takes_ends_a_command_that_waits(name: str) -> None:
    """The wait of the main thread is not interrupted then; the lock is never released."""
    code = """
import signal, sys, threading
from mlx_phi3v.errors import run_cli

def main():
    lock = threading.Lock()
    lock.acquire()
    take = lambda: signal.pthread_kill(threading.get_ident(), signal.Signals[sys.argv[1]])
    threading.Timer(0.2, take).start()
    lock.acquire()

run_cli(main)
"""
    done = subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (128 + signal.Signals[name], "interrupted\n")


def test_a_signal_inside_a_destructor_ends_a_command_that_waits() -> None:
    code = """
import os, signal, threading
from mlx_phi3v.errors import run_cli

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

def main():
    lock = threading.Lock()
    lock.acquire()
    Ends()
    lock.acquire()

run_cli(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")


def test_a_child_that_has_ended_does_not_keep_the_others_alive() -> None:
    """A worker that was started as the signal came is known to nobody; once it ends it stays as a zombie."""
    code = """
import subprocess, sys, time
import psutil
from mlx_phi3v import interrupts
ended = subprocess.Popen([sys.executable, "-c", ""])
time.sleep(0.5)
runs = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(200)"])
interrupts.end_children()
print(psutil.pid_exists(runs.pid))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("signalled", [False, True])
def test_a_thread_that_fails_after_a_signal_says_nothing(signalled: bool) -> None:
    code = """
import signal, sys, threading
from mlx_phi3v.errors import run_cli

def fail():
    raise ValueError("a cancelled future")

def main():
    try:
        if sys.argv[1] == "True":
            signal.raise_signal(signal.SIGTERM)
    finally:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

run_cli(main)
"""
    done = subprocess.run([sys.executable, "-c", code, str(signalled)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == (143 if signalled else 0)
    assert done.stderr == "interrupted\n" if signalled else "ValueError: a cancelled future" in done.stderr
