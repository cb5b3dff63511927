"""Check and measure this project on an accelerator, in one command of at most eight minutes, without a network.

    python scripts/accelerator_check.py --output checked         on a machine with a CUDA GPU or Metal
    python scripts/accelerator_check.py --output checked --small the same at a small size, on any CPU

It runs `mlx_phi3v.doctor` on every backend; at true width, all 32 layers, training steps in bf16 and 4 bits with their peak
memory beside `plan`'s, of torch also answers and transformers as the peer (`scripts/cuda/cuda_check.py`), of MLX
`scripts/measure/measure_memory.py`; and a tiny model that is tuned on the accelerator and on the CPU, whose answers
`eval.compare` compares. Where there is no accelerator it says so and runs at the small size. Writes report.json, page.md and
the output of each step; a step that fails or takes too long is recorded, and the rest goes on. Exit status 1 where any did.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 480.0  # of all steps on an accelerator; a CPU may take longer for the small size
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # hides the GPU from a process


@dataclass(frozen=True)
class Step:
    """A command: its arguments behind `python`, the most seconds of it, exit statuses that are no failure."""

    name: str
    arguments: list[str]
    seconds: float
    good: tuple[int, ...] = (0,)
    environment: dict[str, str] = field(default_factory=dict)
    json: bool = False  # its stdout is the JSON that the report takes
    report: str | None = None  # the file in the folder that holds it


def accelerators() -> dict[str, str]:
    """Backend -> the device it finds that is no CPU."""
    code = {
        "mlx": "import mlx.core as m; print('' if m.default_device() == m.cpu else m.device_info().get('device_name', 'gpu'))",
        "torch": "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')",
    }
    found = {}
    for name, program in code.items():
        if importlib.util.find_spec(name):
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip():
                found[name] = done.stdout.strip()
    return found


def steps(folder: Path, found: dict[str, str], small: bool) -> list[Step]:
    """All of them, in turn."""
    doctor = ["-m", "mlx_phi3v.doctor", "--json", *(["--quick"] if small else [])]
    todo = [Step("doctor", doctor, 150, json=True)]
    width = "small width" if small else "true width"
    if importlib.util.find_spec("torch") and ("torch" in found or small):
        parts = ["--small"] if small else []
        cuda = ["scripts/cuda/cuda_check.py", "--output", str(folder / "cuda.json"), *parts]
        todo.append(Step(f"{width}, torch", [*cuda, "--only", "answers", "train", "packed", "peer"], 240, report="cuda.json"))
    if importlib.util.find_spec("mlx") and ("mlx" in found or small):
        memory = ["scripts/measure/measure_memory.py", "check", "--small" if small else "--accelerator"]
        memory += ["--output", str(folder / "mlx.json")]
        todo.append(Step(f"{width}, MLX", memory, 150, good=(0, 1), report="mlx.json"))  # 1: an estimate is off
    todo = [todo[0], *tuning(folder, found, small), *todo[1:]]
    return [replace(step, seconds=10 * step.seconds) for step in todo] if small else todo


def tuning(folder: Path, found: dict[str, str], small: bool) -> list[Step]:
    """The tiny model, tuned on the device and on the CPU in fp32, and both runs compared (3: too few rows to settle it)."""
    backend = next(iter(found), "torch" if importlib.util.find_spec("torch") else "mlx")
    other = "torch" if importlib.util.find_spec("torch") else "mlx"  # its GPU can be hidden, so it is the CPU's
    rows, count = ("4", "4") if small else ("24", "40")
    made = ["--products", str(20 if small else 120), "--validation", "4", "--test", rows, "--seed", "3"]
    todo = [Step("catalogue", ["-m", "data.sample", "--output", str(folder / "catalogue"), *made], 60)]
    for name, with_backend, environment in (("device", backend, {}), ("cpu", other, HIDDEN)):
        common = ["--data", str(folder / "catalogue"), "--backend", with_backend, "--dtype", "float32"]
        settings = ["--max-steps", count, "--warmup-steps", "2", "--val-rows", "0", "--num-crops", "1", "--r", "8"]
        run, answers = str(folder / f"run-{name}"), str(folder / f"answers-{name}")
        train = ["-m", "mlx_phi3v.train", *common, "--output", run, *settings, "--seed", "1"]
        predict = ["-m", "eval.predict", *common, "--adapter", run, "--output", answers, "--max-new-tokens", "48"]
        todo += [Step(f"tune, {name}", train, 120, environment=environment)]
        todo += [Step(f"answer, {name}", predict, 120, environment=environment)]
    pair = [str(folder / "answers-cpu"), str(folder / "answers-device"), "--json", "--resamples", "200"]
    return [*todo, Step("compare", ["-m", "eval.compare", *pair], 60, good=(0, 3), json=True)]


def run(step: Step, folder: Path, left: float) -> dict[str, Any]:
    """Run a step within its time and what is left; what became of it."""
    began, limit = time.monotonic(), min(step.seconds, left)
    if limit <= 0:
        return {"step": step.name, "failed": "no time was left"}
    log = folder / f"{step.name.replace(', ', '-').replace(' ', '-')}.txt"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | step.environment
    try:
        done = subprocess.run(
            [sys.executable, *step.arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"step": step.name, "failed": f"took more than {limit:.0f} s", "seconds": limit}
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    row: dict[str, Any] = {"step": step.name, "seconds": round(time.monotonic() - began, 1), "status": done.returncode}
    if done.returncode not in step.good:
        row["failed"] = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]
    written = folder / step.report if step.report else None
    text = done.stdout if step.json else written.read_text(encoding="utf-8") if written and written.exists() else ""
    if text.strip():
        try:
            row["found"] = json.loads(text)
        except ValueError as error:
            row["failed"] = f"no JSON in its output: {error}"
    return row


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    devices = ", ".join(f"{name}: {device}" for name, device in report["accelerators"].items())
    lines = [
        f"# {devices or 'No accelerator was found: the CPU, at a small size'}",
        "",
        "| step | seconds | |",
        "|---|---|---|",
    ]
    lines += [f"| {row['step']} | {row.get('seconds', '')} | {row.get('failed') or _summary(row)} |" for row in report["steps"]]
    return "\n".join([*lines, "", f"Failed: {', '.join(report['failed']) or 'none'}. All figures are in report.json.", ""])


def _summary(row: dict[str, Any]) -> str:
    found, step_name = row.get("found", {}), row["step"]
    if step_name == "doctor" and found:
        speeds = "; ".join(
            f"{name} {', '.join(f'{dtype} {value:,.0f}' for dtype, value in speed['gflops'].items())} GFLOP/s"
            for name, speed in found["speed"].items()
        )
        trusted = "trusted" if found["trusted"] else "NOT trusted"
        return f"{trusted}, {found['passed']} checks passed, {found['failed']} failed{'; ' * bool(speeds)}{speeds}"
    if step_name == "compare" and found:
        return f"{found['verdict']}, {len(found['parted'])} rows diverge"
    if step_name.endswith("MLX") and found:
        return f"{len(found['kinds'])} kinds of step{_ratios([kind['ratio'] for kind in found['kinds']])}"
    if step_name.endswith("torch") and found:
        steps = [case for part in found["parts"].values() for case in part if "tokens/s" in case]
        return f"{len(steps)} cases{_ratios([case['plan / peak'] for case in steps if case.get('plan / peak')])}"
    return "done"


def _ratios(ratios: list[float]) -> str:
    return f"; plan's estimate is {min(ratios):.2f} to {max(ratios):.2f} of the peak of memory" if ratios else ""


def main(argv: Sequence[str] | None = None) -> int:
    """All steps in turn; the report is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="new folder for the report and what the steps write")
    parser.add_argument("--small", action="store_true", help="a small size, also where there is an accelerator")
    options = parser.parse_args(argv)
    if options.output.exists():
        parser.error(f"{options.output} exists; give a new folder")
    folder = options.output.resolve()
    folder.mkdir(parents=True)
    found = accelerators()
    if not found:
        print("no accelerator was found: running on the CPU, at a small size", flush=True)
    small, began = options.small or not found, time.monotonic()
    report: dict[str, Any] = {"accelerators": found, "small": small, "steps": [], "failed": []}
    for step in steps(folder, found, small):
        print(step.name, flush=True)
        row = run(step, folder, float("inf") if small else SECONDS - (time.monotonic() - began))
        report["steps"].append(row)
        report["failed"] += [step.name] if "failed" in row else []
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "page.md").write_text(page(report), encoding="utf-8")
    print((folder / "page.md").read_text(encoding="utf-8"))
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
