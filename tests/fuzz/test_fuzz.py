"""Mutated files end in success, a rejected row or one sentence; never in anything else, nor outside their folder.

Each target (see `targets`) gets 300 inputs; `FUZZ_INPUTS=10000 pytest tests/fuzz` gives it more, as the nightly workflow
does. The inputs follow from TEST_SEED. They run in a process of their own, which native code may crash: the next goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TEST_SEED
from tests.fuzz.targets import TARGETS
from tests.helpers.paths import ROOT

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
_A_PROCESS = 2500  # inputs: a crash loses the others' report, and memory is counted by process
_MOST_POLLS = 2400  # two minutes without a new input: none takes 10 seconds; one that waits for ever takes no processor time


def _run(name: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run so many inputs in a process; a crash or a hang is a failure in its report."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.fuzz.child", name, str(count), str(seed), str(folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        last, polls = "", 0
        while process.poll() is None:
            time.sleep(0.05)
            number = (folder / "number").read_text() if (folder / "number").exists() else ""
            last, polls = number, polls + 1 if number == last else 0  # not by the clock: a machine may be suspended
            if polls > _MOST_POLLS:
                process.kill()
    if process.returncode == 0:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return report | {"began": True}
    reached = int(last or 0)
    failure = {"what": f"the process ended with {process.returncode}", "where": "", "number": reached,
               "detail": (folder / "log").read_text(errors="replace")[-2000:]}  # fmt: skip
    return {"inputs": max(reached, 1), "accepted": 0, "slowest": 0.0, "peak": 0, "failures": [failure], "began": bool(last)}


def fuzz(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The reports of all processes that a target's inputs take."""
    done = 0
    while done < INPUTS:
        report = _run(name, min(INPUTS - done, _A_PROCESS), TEST_SEED + done, folder / str(done))
        done += report["inputs"]
        yield report
        if not report["began"]:  # the next process would end there too
            return


@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_is_read_or_refused(name: str, tmp_path: Path, record_property: Any) -> None:
    if name in ("weights", "tokenizer"):
        pytest.importorskip("mlx")
    if name == "tables":
        pytest.importorskip("ijson")
    reports = list(fuzz(name, tmp_path))
    inputs, accepted = (sum(report[key] for report in reports) for key in ("inputs", "accepted"))
    slowest, peak = (max(report[key] for report in reports) for key in ("slowest", "peak"))
    failures = [failure for report in reports for failure in report["failures"]]
    figures = (
        f"{name}: {inputs} inputs, {accepted} accepted, {len(failures)} failures, slowest {slowest:.2f} s, {peak >> 20} MB"
    )
    print(figures)
    record_property("figures", figures)
    kinds = {(failure["what"], failure["where"]): failure for failure in reversed(failures)}
    shown = "\n\n".join(f"{what} in {where}, input {one['number']}:\n{one['detail']}" for (what, where), one in kinds.items())
    assert not failures, f"{figures}; the files are in {tmp_path}/*/kept\n{shown}"
    assert inputs >= INPUTS and 0 < accepted < inputs  # neither is every file refused, nor none damaged


def test_the_watch_notices_what_no_input_may_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as its hook cannot be removed."""
    code = """
import sys
from pathlib import Path
from mlx_phi3v.errors import UserError
from tests.fuzz import watch
from tests.fuzz.child import make_outside
folder = Path(sys.argv[1])
(folder / "in").mkdir()
make_outside(folder / "outside")
watch.MOST_SECONDS, watch.MOST_BYTES = 3.0, watch.peak_bytes() + (64 << 20)
seen = watch.Watch(folder / "in", folder / "outside")
def refuse():
    raise UserError("no")
def spin():
    while True:
        pass
def native():
    import pyarrow
    pyarrow.memory_map(str(folder / "outside" / "secret.png")).read()
entries = [refuse, spin, native, lambda: {}["x"], lambda: open("/etc/hostname"), lambda: print("\\x1b[2J"),
           lambda: b"x" * (200 << 20), lambda: (folder / "in" / "a").write_text("x")]
for entry in entries:
    seen.run(entry)
print(seen._notes_reading, seen.accepted, [failure.what for failure in seen.failures])
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300)
    expected = (
        "5 ['TooLongError', 'a file outside was read', 'KeyError', 'a file outside was opened', 'text that acts', 'memory']"
    )
    if done.stdout.startswith("False"):  # this disk does not note when a file was read
        expected = expected.replace("'a file outside was read', ", "")
    assert done.stdout.split(maxsplit=1)[1].strip() == expected, done.stdout + done.stderr


def test_a_crash_below_python_is_a_failure_of_its_input(tmp_path: Path) -> None:
    report = _run("no such target", 5, 0, tmp_path / "x")
    assert "the process ended with 1" in report["failures"][0]["what"] and "KeyError" in report["failures"][0]["detail"]
