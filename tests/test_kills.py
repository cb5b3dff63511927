"""A command that is killed or interrupted before any of its writes can be given again: it ends well, with the same result.

`pytest -m slow tests/test_kills.py` does so at every write of every command; the fast tests kill at the last one, when the
result is in place, and interrupt amid the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from tests.helpers.catalogue import random_picture
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HOOK = ROOT / "tests" / "helpers" / "kill_hook"
EVERY = ["convert", "fuse", "sample", "ingest"]


@pytest.fixture
def commands(checkpoint: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """A command by its name; it writes into the folder `out`."""
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()

    def line(name: str) -> list[str]:
        if name == "fuse":
            config = AdapterArgs(r=2, base_model_name_or_path="the-base")
            tensors = {key: value + 0.01 for key, value in init_adapter(load_model_config(checkpoint), config, 0).items()}
            save_adapter(made / "adapter", config, tensors, base_fingerprint(checkpoint))
        if name == "ingest":
            pytest.importorskip("httpx")
            for i in range(3):
                random_picture(80, 60, i).save(made / f"{i}.jpg")
            rows = [{"title": f"Hat {i}", "price": i, "image": str(made / f"{i % 3}.jpg")} for i in range(6)]
            (made / "shop.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, {"title": "Hat", "price": "x"}]))
        arguments = {
            "convert": ["mlx_phi3v.convert", "--hf-path", checkpoint, "--mlx-path", out / "o", "--no-probe"],
            "fuse": ["mlx_phi3v.fuse", "--model", checkpoint, "--adapter", made / "adapter", "--save-path", out / "o",
                     "--no-probe", "--receipt", 0],
            "sample": ["data.sample", "-o", out / "o", "--products", 10, "--processes", 1],
            "ingest": ["data.ingest", made / "shop.jsonl", "-o", out / "o", "--processes", 1, "--image", "image", "--csv",
                       "--field", "title=title", "price=price:number"],
        }[name]  # fmt: skip
        if name in ("convert", "fuse"):
            pytest.importorskip("mlx")
        return [sys.executable, "-m", *map(str, arguments)]

    return line


def run(line: list[str], out: Path, at: int = -1, number: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Exit status and stderr of the command; it gets the signal before its write number `at`, 0 is none."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if at >= 0:
        environment |= {"KILL_ROOT": str(out), "KILL_AT": str(at), "KILL_LOG": str(out.parent / "log")}
        environment["KILL_SIGNAL"] = str(int(number))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def contents(out: Path) -> dict[str, str]:
    """Every file below `out`, hidden ones too, by its hash; "" for a folder."""
    return {
        str(path.relative_to(out)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
    }


Signals = list[tuple[int, signal.Signals]]


def stop_and_repeat(line: list[str], out: Path, stops: Callable[[int], Signals]) -> None:
    """Stop the command at the chosen ones of its writes, and give it again each time."""
    out.mkdir()
    assert run(line, out, at=0) == (0, "")
    writes = (out.parent / "log").read_text().splitlines()
    expected = contents(out)
    wrong = []
    for place, number in stops(len(writes)):
        shutil.rmtree(out)
        out.mkdir()
        stopped = run(line, out, place, number)
        assert stopped == ((-number, "") if number == signal.SIGKILL else (128 + number, "interrupted\n"))
        status, errors = run(line, out)
        if status or contents(out) != expected:
            wrong.append((writes[place - 1], number, status, errors, sorted(contents(out).keys() ^ expected.keys())))
    assert not wrong


@pytest.mark.parametrize("name", EVERY)
def test_a_command_killed_at_its_end_or_interrupted_can_be_given_again(
    name: str, commands: Callable[[str], list[str]], tmp_path: Path
) -> None:
    interrupt = signal.SIGINT if name in ("convert", "ingest") else signal.SIGTERM
    stop_and_repeat(commands(name), tmp_path / "out", lambda count: [(count, signal.SIGKILL), (count // 2, interrupt)])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", EVERY)
def test_a_command_stopped_at_any_write_can_be_given_again(
    name: str, number: signal.Signals, commands: Callable[[str], list[str]], tmp_path: Path
) -> None:
    stop_and_repeat(commands(name), tmp_path / "out", lambda count: [(place, number) for place in range(1, count + 1)])


@pytest.mark.parametrize(
    "name", ["sample", *(pytest.param(name, marks=pytest.mark.slow) for name in EVERY if name != "sample")]
)
def test_of_three_processes_on_one_output_one_wins(name: str, commands: Callable[[str], list[str]], tmp_path: Path) -> None:
    line, out = commands(name), tmp_path / "out"
    out.mkdir()
    running = [subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(process, *process.communicate(timeout=300)) for process in running]
    assert any(process.returncode == 0 for process, *_ in ends)
    for process, _, errors in ends:  # one that came after the winner's end finds its own work done
        refused = "another process is writing" in errors or "exists and is not empty" in errors
        assert process.returncode == 0 or (process.returncode == 1 and refused)
        assert "Traceback" not in errors and len(errors.splitlines()) <= 1
    whole = contents(out)
    assert not [name for name in whole if name.startswith(".")]
    shutil.rmtree(out)
    out.mkdir()
    assert run(line, out)[0] == 0 and contents(out) == whole
