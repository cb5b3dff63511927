"""Candidates in processes of their own, in turn, and the peaks of memory that the system counts for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One candidate's process."""
    command = [sys.executable, str(Path(__file__).with_name("bench_work.py")), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turn(candidates: dict[str, dict[str, Any]], common: dict[str, Any], rounds: int, console: Console) -> dict[str, Any]:
    """All candidates, round after round: {name: {seconds, peak_gb, ...}}."""
    results: dict[str, Any] = {}
    for turn in range(rounds):
        for name, job in candidates.items():
            if console.is_terminal:
                console.print(f"[dim]round {turn + 1} of {rounds}: {name}[/]")
            figures = run(common | job)
            if name in results:
                results[name]["seconds"] += figures["seconds"]
                results[name]["peak_gb"] = max(results[name]["peak_gb"], figures["peak_gb"])
            else:
                results[name] = figures | {"job": common | job}
    return results


def peaks(rounds: int) -> dict[str, float]:
    """GFLOP/s of the matrix product of each framework, the best of the rounds."""
    found = {who: [run({"work": "matmul", "who": who})["gflops"] for _ in range(rounds)] for who in ("mlx", "torch")}
    return {who: max(values) for who, values in found.items()}


def peak_of(command: Sequence[str]) -> float:
    """Peak resident GB of a command, as the system counts it for that child alone."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)
