"""Seconds of MLX training steps, measured and as `mlx_phi3v.plan` estimates them after a calibration of this machine.

    python scripts/measure/measure_plan_time.py                       kinds of step of `step_kinds.py`, at the true width
    python scripts/measure/measure_plan_time.py --small               a narrow model, to try the check
    OMP_NUM_THREADS=1 python scripts/measure/measure_plan_time.py --processor-time      beside other work

Of each kind calibration and step take turns, in one process, so that both meet the machine in the same state; the ratio is
the median of the rounds'. --processor-time counts the processor's seconds in place of the clock's: on one thread they are
nearly those of a quiet machine. Prints a table in Markdown; --output has all figures as JSON. Exit status 1 where an estimate
is off by more than 20 % (not with --small).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from step_kinds import FULL, SMALL, TIMED, Kind, prepared

from mlx_phi3v import timing
from mlx_phi3v.doctor import speed
from mlx_phi3v.training.step_work import machine_speed, step_seconds, step_work

MOST = 0.2
COLUMNS = ("kind", "rows x tokens, crops", "TFLOP", "estimate, s", "measured, s", "ratio", "of each round")


def measure(kind: Kind, rounds: int) -> list[dict[str, float]]:
    """The estimate after a calibration, and the step, for each round."""
    steps, found = prepared(kind), []
    steps.run()  # it makes what later ones use again
    work = step_work(kind.model(), kind.shape(), kind.settings(cpu=steps.cpu))
    for _ in range(rounds):
        peaks = speed.measure("mlx", (kind.dtype,))["gflops"]
        known = speed.calibrate("mlx", peaks, kind.dtype)
        estimate = step_seconds(work, machine_speed(known.gflops, known, cpu=steps.cpu))
        found.append({"estimate": estimate, "measured": steps.run()["seconds"], "tflop": work.flops / 1e12})
    return found


def apart(kind: Kind, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the report, measured in a process of its own. Raises RuntimeError where that fails."""
    command = [sys.executable, __file__, "--kind", kind.name, "--rounds", str(options.rounds)]
    command += ["--processor-time"] if options.processor_time else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    rounds = json.loads(done.stdout.splitlines()[-1])
    ratios = [one["estimate"] / one["measured"] for one in rounds]
    middle = {name: statistics.median(one[name] for one in rounds) for name in ("estimate", "measured", "tflop")}
    return {
        "kind": kind.name, "rows": kind.rows, "tokens": kind.tokens, "crops": kind.crops, **middle,
        "ratio": statistics.median(ratios), "ratios": ratios,
    }  # fmt: skip


def row_of(found: dict[str, Any]) -> str:
    """The row as Markdown."""
    cells = (
        found["kind"], f"{found['rows']} x {found['tokens']:,}, {found['crops']}", f"{found['tflop']:.2f}",
        f"{found['estimate']:.2f}", f"{found['measured']:.2f}", f"{found['ratio']:.2f}",
        ", ".join(f"{ratio:.2f}" for ratio in found["ratios"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def check(options: argparse.Namespace) -> int:
    """All kinds; the report is written after each."""
    kinds = [*(SMALL if options.small else TIMED), *([FULL] if options.full else [])]
    rows: list[dict[str, Any]] = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for kind in kinds:
        if options.only and kind.name not in options.only:
            continue
        rows.append(apart(kind, options))
        print(row_of(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps({"kinds": rows}, indent=1) + "\n", encoding="utf-8")
    off = [] if options.small else [row["kind"] for row in rows if abs(row["ratio"] - 1) > MOST]
    print(f"\noff by more than {MOST:.0%}: {', '.join(off) or 'none'}")
    return 1 if off else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The check, or one kind of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="calibrations and steps of each kind")
    parser.add_argument("--full", action="store_true", help="also the whole model in 4 bits (minutes a round on a CPU)")
    parser.add_argument("--small", action="store_true", help="a narrow model")
    parser.add_argument("--processor-time", action="store_true", help="count the processor's seconds, not the clock's")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="these kinds")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.kind is None:
        return check(options)
    if options.processor_time:
        timing.clock = time.process_time
    [kind] = [kind for kind in (*TIMED, *SMALL, FULL) if kind.name == options.kind]
    print(json.dumps(measure(kind, options.rounds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
