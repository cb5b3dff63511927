"""Peak memory of MLX training steps, measured and as `mlx_phi3v.training.footprint` estimates it.

    python scripts/measure/measure_memory.py check                    every kind of step of `step_kinds.py`, at the true width
    python scripts/measure/measure_memory.py check --full             and the whole model in 4 bits (minutes on a CPU)
    python scripts/measure/measure_memory.py check --accelerator      the whole model in bf16 and 4 bits, 1 and 8 rows
    python scripts/measure/measure_memory.py check --small            a narrow model, to try the check
    python scripts/measure/measure_memory.py fit                      what a layer at work takes, for `footprint`'s constants

`check` runs each kind in a process of its own and prints a table in Markdown; --output has all figures as JSON. Exit status 1
where an estimate is off by more than 8 % (not with --small, whose width the constants are not for).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from step_kinds import ACCELERATOR, COMPILED, FITTED, FULL, KINDS, SMALL, Kind, prepared

from mlx_phi3v.training.footprint import Footprint, footprint, layer_at_work

MOST = 0.08
COLUMNS = ("kind", "rows x tokens, crops", "estimate, GB", "MLX's count, GB", "ratio", "process, GB", "ratio ", "seconds")


def measure(kind: Kind, count: int) -> dict[str, float]:
    """Bytes: in use between steps, the peaks of a pass and an update above that, and the process's; seconds of the step."""
    steps = prepared(kind)
    runs = [steps.run() for _ in range(count)]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    worst = {name: max(run[name] for run in runs) for name in ("pass", "update")}
    return {"held": steps.held, **worst, "seconds": runs[-1]["seconds"], "process": resident, "cpu": steps.cpu}


def apart(kind: Kind, count: int) -> dict[str, float]:
    """`measure` in a process of its own, so that the peaks are its own. Raises RuntimeError where that fails."""
    command = [sys.executable, __file__, "one", "--kind", kind.name, "--steps", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def estimated(kind: Kind, cpu: bool) -> Footprint:
    """The estimate for a kind."""
    return footprint(kind.model(), kind.shape(), kind.settings(cpu=cpu))


def compared(kind: Kind, found: dict[str, float]) -> dict[str, Any]:
    """A row of the report."""
    expected = estimated(kind, bool(found["cpu"]))
    estimate = expected.total
    measured = found["held"] + max(found["pass"], found["update"])
    return {
        "kind": kind.name, "rows": kind.rows, "tokens": kind.tokens, "crops": kind.crops, "layers": kind.layers,
        "estimate": estimate, "measured": measured, "ratio": estimate / measured, **found,
        "process_ratio": expected.process / found["process"],
    }  # fmt: skip


def row_of(found: dict[str, Any]) -> str:
    """The row as Markdown."""
    cells = (
        found["kind"], f"{found['rows']} x {found['tokens']:,}, {found['crops']}", f"{found['estimate'] / 1e9:.2f}",
        f"{found['measured'] / 1e9:.2f}", f"{found['ratio']:.3f}", f"{found['process'] / 1e9:.2f}",
        f"{found['process_ratio']:.3f}", f"{found['seconds']:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def check(options: argparse.Namespace) -> int:
    """Measured and estimated peaks; the report is written after each kind."""
    kinds: Sequence[Kind] = (
        COMPILED if options.compiled else SMALL if options.small else ACCELERATOR if options.accelerator else KINDS
    )
    kinds = [*kinds, *([FULL] if options.full else [])]
    if options.only:
        kinds = [kind for kind in kinds if kind.name in options.only]
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for kind in kinds:
        try:
            rows.append(compared(kind, apart(kind, options.steps)))
        except RuntimeError as error:
            failed.append(kind.name)
            print(f"| {kind.name} | did not run: {error} |", flush=True)
            continue
        print(row_of(rows[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps({"kinds": rows, "failed": failed}, indent=1) + "\n", encoding="utf-8")
    off = [] if options.small else [row["kind"] for row in rows if abs(row["ratio"] - 1) > MOST]
    print(f"\noff by more than {MOST:.0%}: {', '.join(off) or 'none'}; did not run: {', '.join(failed) or 'none'}")
    return 1 if off or failed else 0


def fit(count: int) -> int:
    """What a layer has at work: the peak of a pass without what is saved, gradients and logits."""
    for kind in FITTED:
        found = apart(kind, count)
        estimate = layer_at_work(kind.model(), kind.shape(), kind.settings(cpu=bool(found["cpu"])))
        measured = found["pass"] - (estimated(kind, bool(found["cpu"])).activations - estimate)
        per_token = 4 * kind.rows * kind.tokens
        print(f"{kind.name}: {measured / per_token:,.0f} floats a token, estimated {estimate / per_token:,.0f}", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Fit or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("fit", "check", "one"))
    parser.add_argument("--full", action="store_true", help="check: also the whole model in 4 bits")
    parser.add_argument("--accelerator", action="store_true", help="check: the whole model in bf16 and 4 bits")
    parser.add_argument("--compiled", action="store_true", help="check: compiled steps")
    parser.add_argument("--small", action="store_true", help="check: a narrow model")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="check: these kinds")
    parser.add_argument("--steps", type=int, default=1, help="steps of each kind; of more than one the highest peak counts")
    parser.add_argument("--output", type=Path, help="check: JSON file for all figures")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.work == "one":
        [kind] = [kind for kind in (*KINDS, *COMPILED, *ACCELERATOR, *SMALL, *FITTED, FULL) if kind.name == options.kind]
        print(json.dumps(measure(kind, options.steps)))
        return 0
    return fit(options.steps) if options.work == "fit" else check(options)


if __name__ == "__main__":
    raise SystemExit(main())
