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
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = {"PYTHONPATH": str(ROOT)}
SECONDS = 480.0  # of all steps on an accelerator; a CPU may take longer for the small size
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "MLX_PHI3V_TORCH_DEVICE": "cpu"}  # hides the GPU from a process
SCRATCH = "scratch"  # the folder's folder for checkpoints, 8 GB, which is removed after the step


@dataclass(frozen=True)
class Step:
    """A command: its arguments behind `python`, the most seconds of it, exit statuses that are no failure.

    reserved: seconds that the steps before it leave for it.
    """

    name: str
    arguments: list[str]
    seconds: float
    good: tuple[int, ...] = (0,)
    environment: dict[str, str] = field(default_factory=dict)
    json: bool = False  # its stdout is the JSON that the report takes
    report: str | None = None  # the file in the folder that holds it
    reserved: float = 0.0


def accelerators() -> tuple[dict[str, str], dict[str, str]]:
    """(backend -> the device it finds that is no CPU, backend -> why it could not be asked)."""
    code = {
        "mlx": "import mlx.core as m; print('' if m.default_device() == m.cpu else m.device_info().get('device_name', 'gpu'))",
        "torch": "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')",
    }
    found, failed = {}, {}
    for name, program in code.items():
        if importlib.util.find_spec(name):
            out, error, status = _finished([sys.executable, "-c", program], os.environ | HERE, 120)
            if status == 0 and out.strip():
                found[name] = out.strip().splitlines()[-1]
            elif status != 0:
                failed[name] = _last_line(error) or ("no answer in 120 s" if status is None else f"exit status {status}")
    return found, failed


def steps(folder: Path, found: dict[str, str], small: bool) -> list[Step]:
    """All of them, in turn."""
    doctor = ["-m", "mlx_phi3v.doctor", "--json", *(["--quick"] if small else [])]
    todo = [Step("doctor", doctor, 150, json=True)]
    width = "small width" if small else "true width"
    if importlib.util.find_spec("torch") and ("torch" in found or small):
        parts = ["--small"] if small else []
        cuda = ["scripts/cuda/cuda_check.py", "--output", str(folder / "cuda.json"), *parts]
        todo.append(Step(f"{width}, torch", [*cuda, "--only", "answers", "train", "packed", "peer"], 240, report="cuda.json",
                         environment={"TMPDIR": str(folder / SCRATCH)}, reserved=170))  # fmt: skip
    if importlib.util.find_spec("mlx") and ("mlx" in found or small):
        memory = ["scripts/measure/measure_memory.py", "check", "--small" if small else "--accelerator"]
        memory += ["--output", str(folder / "mlx.json")]
        todo.append(Step(f"{width}, MLX", memory, 150, good=(0, 1), report="mlx.json", reserved=60))  # 1: an estimate is off
    todo = [todo[0], *tuning(folder, found, small), *todo[1:]]
    return [replace(step, seconds=10 * step.seconds) for step in todo] if small else todo


def tuning(folder: Path, found: dict[str, str], small: bool) -> list[Step]:
    """The tiny model, tuned on the device and on the CPU in fp32, and both runs compared (3: too few rows to settle it).

    On a Mac without torch on the device alone: nothing hides Metal from MLX.
    """
    backend = next(iter(found), "torch" if importlib.util.find_spec("torch") else "mlx")
    other = "torch" if importlib.util.find_spec("torch") else "mlx"  # its GPU can be hidden, so it is the CPU's
    rows, count = ("4", "4") if small else ("24", "40")
    made = ["--products", str(20 if small else 120), "--validation", "4", "--test", rows, "--seed", "3"]
    todo = [Step("catalogue", ["-m", "data.sample", "--output", str(folder / "catalogue"), *made], 60)]
    alone = bool(found) and other == "mlx" and sys.platform == "darwin"
    for name, with_backend, environment in (("device", backend, {}), ("cpu", other, HIDDEN))[: 1 if alone else 2]:
        common = ["--data", str(folder / "catalogue"), "--backend", with_backend, "--dtype", "float32"]
        settings = ["--max-steps", count, "--warmup-steps", "2", "--val-rows", "0", "--num-crops", "1", "--r", "8"]
        run, answers = str(folder / f"run-{name}"), str(folder / f"answers-{name}")
        train = ["-m", "mlx_phi3v.train", *common, "--output", run, *settings, "--seed", "1"]
        predict = ["-m", "eval.predict", *common, "--adapter", run, "--output", answers, "--max-new-tokens", "48"]
        todo += [Step(f"tune, {name}", train, 120, environment=environment)]
        todo += [Step(f"answer, {name}", predict, 120, environment=environment)]
    pair = [str(folder / "answers-cpu"), str(folder / "answers-device"), "--json", "--resamples", "200"]
    return todo if alone else [*todo, Step("compare", ["-m", "eval.compare", *pair], 60, good=(0, 3), json=True)]


def run(step: Step, folder: Path, left: float) -> dict[str, Any]:
    """Run a step within its time and what is left; what became of it, and what it had found where it took too long."""
    began, limit = time.monotonic(), min(step.seconds, left)
    if limit <= 0:
        return {"step": step.name, "failed": "no time was left"}
    (folder / SCRATCH).mkdir(exist_ok=True)
    out, error, status = _finished([sys.executable, *step.arguments], os.environ | HERE | step.environment, limit)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    log = folder / f"{step.name.replace(', ', '-').replace(' ', '-')}.txt"
    log.write_text(out + error, encoding="utf-8")
    row: dict[str, Any] = {"step": step.name, "seconds": round(time.monotonic() - began, 1), "status": status}
    written = folder / step.report if step.report else None
    text = out if step.json else written.read_text(encoding="utf-8") if written and written.exists() else ""
    if text.strip():
        try:
            row["found"] = json.loads(text)
        except ValueError as wrong:
            row["failed"] = f"no JSON in its output: {wrong}"
    if status is None:
        row["failed"] = f"took more than {limit:.0f} s"
    elif (failed := _failed(row.get("found") or {})) or status not in step.good:
        row["failed"] = failed or _last_line(error) or f"exit status {status}"
    return row


def _finished(command: list[str], environment: dict[str, str], limit: float) -> tuple[str, str, int | None]:
    """stdout, stderr and the exit status of a command; None where it was ended with all its processes, as it took longer."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        out, error = process.communicate(timeout=None if limit == float("inf") else limit)
        return out, error, process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # one that is left would hold the GPU's memory, and the output
        return *process.communicate(), None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _failed(found: dict[str, Any]) -> str:
    """What a step's own report says of its failures."""
    names = found.get("failed")
    parted = found.get("first_to_part")
    if parted and isinstance(parted, dict):
        return "; ".join(f"{where}: {what}" for where, what in parted.items())[:300]
    return f"failed: {', '.join(map(str, names))}"[:300] if names and isinstance(names, list) else ""


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    devices = ", ".join(f"{name}: {device}" for name, device in report["accelerators"].items())
    lines = [
        f"# {devices or 'No accelerator was found: the CPU, at a small size'}",
        "",
        "| step | seconds | |",
        "|---|---|---|",
    ]
    for row in report["steps"]:
        said = "; ".join(text for text in (row.get("failed"), _summary(row)) if text).replace("|", "/")
        lines.append(f"| {row['step']} | {row.get('seconds', '')} | {said} |")
    lines += [f"\n{name} could not be asked for a device: {why}" for name, why in report.get("not_asked", {}).items()]
    return "\n".join([*lines, "", f"Failed: {', '.join(report['failed']) or 'none'}. All figures are in report.json.", ""])


def _summary(row: dict[str, Any]) -> str:
    try:
        return _figures(row.get("found") or {}, row["step"]) or ("" if "failed" in row else "done")
    except (KeyError, TypeError, ValueError, AttributeError):  # a report that is not whole
        return "its report is not whole"


def _figures(found: dict[str, Any], step_name: str) -> str:
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
    return ""


def _ratios(ratios: list[float]) -> str:
    return f"; plan's estimate is {min(ratios):.2f} to {max(ratios):.2f} of the peak of memory" if ratios else ""


def main(argv: Sequence[str] | None = None) -> int:
    """All steps in turn; the report is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="new folder for the report and what the steps write")
    parser.add_argument("--small", action="store_true", help="a small size, also where there is an accelerator")
    options = parser.parse_args(argv)
    folder = options.output.resolve()
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        parser.error(f"--output {options.output} exists; give a new folder")
    except OSError as error:
        parser.error(f"--output {options.output} cannot be made ({error.strerror}); give a new folder")
    began = time.monotonic()
    found, not_asked = accelerators()
    for name, why in not_asked.items():
        print(f"{name} could not be asked for a device: {why}", flush=True)
    if not found:
        print("no accelerator was found: running on the CPU, at a small size", flush=True)
    small = options.small or not found
    report: dict[str, Any] = {"accelerators": found, "not_asked": not_asked, "small": small, "steps": [], "failed": []}
    todo = steps(folder, found, small)
    for i, step in enumerate(todo):
        print(step.name, flush=True)
        reserved = sum(later.reserved for later in todo[i + 1 :])
        left = float("inf") if small else SECONDS - (time.monotonic() - began) - reserved
        try:
            row = run(step, folder, left)
        except OSError as error:  # such as a full disk
            row = {"step": step.name, "failed": str(error)}
        report["steps"].append(row)
        report["failed"] += [step.name] if "failed" in row else []
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "page.md").write_text(page(report), encoding="utf-8")
    print((folder / "page.md").read_text(encoding="utf-8"))
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
