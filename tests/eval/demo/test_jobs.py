"""Chains of commands: each after the one before it, so many at once, and none left running after a failure."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from eval.demo import jobs
from eval.demo.jobs import Display, Job, run_chains, unfinished
from mlx_phi3v.errors import UserError
from tests.helpers.synthetic_runs import make_rows, write_run

# Stands for any command: appends its begin and end to a log.
_WORK = """
import pathlib, sys, time
log, name, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def say(what):
    with log.open("a") as file: file.write(f"{what} {name}\\n")
say("begin")
if seconds < 0:
    sys.exit("error: it went wrong")
time.sleep(seconds)
say("end")
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the commands that run."""
    monkeypatch.setattr(jobs, "child_command", lambda module: [sys.executable, "-c", _WORK])
    return tmp_path / "log"


def job(log: Path, name: str, seconds: float = 0.05) -> Job:
    return Job(name, "any", [str(log), name, str(seconds)], 1.0)


def display() -> Display:
    return Display(1.0, Console(stderr=True), True)


def test_a_chain_runs_in_order_and_no_more_chains_than_asked_for_at_once(log: Path) -> None:
    run_chains([[job(log, f"{chain}{i}") for i in range(2)] for chain in "abc"], display(), at_once=2)
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(f"{what} {chain}{i}" for what in ("begin", "end") for chain in "abc" for i in range(2))
    for chain in "abc":
        assert lines.index(f"end {chain}0") < lines.index(f"begin {chain}1")
    at_once = 0
    for line in lines:
        at_once += 1 if line.startswith("begin") else -1
        assert at_once <= 2
    first_end = min(lines.index("end a1"), lines.index("end b1"))
    assert lines.index("begin c0") > first_end


def test_a_failure_is_told_and_ends_the_others(log: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="b failed: it went wrong"):
        run_chains([[job(log, "a", 600), job(log, "after")], [job(log, "b", -1)], [job(log, "c")]], display(), at_once=2)
    assert time.monotonic() - started < 300  # a sleeps 600 s where it is not ended
    assert "end a" not in log.read_text() and "begin after" not in log.read_text() and "begin c" not in log.read_text()


def test_what_is_finished_is_left_out_with_the_training_that_made_it(tmp_path: Path) -> None:
    write_run(tmp_path / "whole", make_rows(3))
    write_run(tmp_path / "begun", make_rows(3), finish=False)
    train = Job("train", "t", [], 1.0)
    write_run(tmp_path / "cut", make_rows(3))
    rows = (tmp_path / "cut" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "predictions.jsonl").write_text("".join(rows[:2]) + rows[2][:20])
    chains = [[train, Job("answer", "p", [], 1.0, run=tmp_path / name)] for name in ("whole", "begun", "none", "cut")]
    assert unfinished(chains) == chains[1:]
    assert unfinished([[chains[0][1], chains[1][1]]]) == [[chains[1][1]]]
