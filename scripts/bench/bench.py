"""Speed and memory, ours beside mlx-vlm and torch, on one checkpoint, in turn, in one run.

    python scripts/bench.py train --model CHECKPOINT        a training step: plain, cached, with the image side
    python scripts/bench.py generate --model CHECKPOINT     answers of 32 tokens, photos new and seen before
    python scripts/bench.py convert --model CHECKPOINT      to 4 bit
    python scripts/bench.py scaling --model CHECKPOINT      a step against crops, rows and layers
    python scripts/bench.py flat                            memory over 1,000 steps of the tiny model, and 10 times the rows
    python scripts/bench.py operations                      what a layer's operations take in MLX, its own and ours

CHECKPOINT: such as ../shared/tools/make_checkpoint.py writes, or "tiny". Every contender runs in a process of its own,
round after round; the table gives the median and the spread over all rounds. Peaks are of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterConfig
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.training.footprint import BatchShape, StepSettings, step_flops

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {
    "mlx-vlm, image side frozen": {"who": "mlx-vlm"},
    "mlx, image side frozen": {"who": "mlx"},
    "torch, image side frozen": {"who": "torch"},
    "mlx, features cached": {"who": "mlx", "cached": True},
    "torch, features cached": {"who": "torch", "cached": True},
    "mlx-vlm, its default targets": {"who": "mlx-vlm", "vision": True},
    "mlx, LoRA on the image side too": {"who": "mlx", "vision": True},
    "torch, LoRA on the image side too": {"who": "torch", "vision": True},
}
GENERATE = {
    "mlx-vlm": {"who": "mlx-vlm"},
    "mlx": {"who": "mlx"},
    "torch": {"who": "torch"},
    "mlx, photos seen before": {"who": "mlx", "cached": True},
    "torch, photos seen before": {"who": "torch", "cached": True},
}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One contender's process."""
    command = [sys.executable, str(ROOT / "scripts" / "bench_work.py"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turn(contenders: dict[str, dict[str, Any]], common: dict[str, Any], rounds: int, console: Console) -> dict[str, Any]:
    """All contenders, round after round: {name: {seconds, peak_gb, ...}}."""
    results: dict[str, Any] = {}
    for turn in range(rounds):
        for name, job in contenders.items():
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


def bench_train(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Steps of every contender, with the share of the matrix-product peak."""
    common = {"work": "train", "model": options.model, "crops": options.crops, "rows": 1, "steps": options.steps}
    results = in_turn(_chosen(TRAIN, options), common, options.rounds, console)
    top = peaks(options.rounds)
    for figures in results.values():
        flops = _flops(options.model, figures)
        figures["tflop"] = round(flops / 1e12, 3)
        who = "torch" if figures["job"]["who"] == "torch" else "mlx"
        figures["share_of_peak"] = round(flops / 1e9 / statistics.median(figures["seconds"]) / top[who], 3)
    return {"bench": "train", "peak_gflops": top, "results": results}


def _flops(model: str, figures: dict[str, Any]) -> float:
    job = figures["job"]
    targets = (*LANGUAGE, *VISION, *PROJECTOR) if job.get("vision") else LANGUAGE
    training = StepSettings(AdapterConfig(target_modules=targets), "float32", False, encode=not job.get("cached"))
    shape = BatchShape(len(figures["tokens"]), max(figures["tokens"]), sum(figures["images"]), figures["labels"])
    return sum(step_flops(load_model_config(resolve_model(model)), shape, training))


def bench_generate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Answers a second; the seconds are of one answer."""
    common = {"work": "generate", "model": options.model, "crops": options.crops, "rows": options.answers,
              "batch": options.batch, "new_tokens": 32, "check": options.check}  # fmt: skip
    contenders = _chosen(GENERATE, options)
    if "mlx-vlm" in contenders:
        contenders["mlx-vlm"] |= {"rows": options.mlx_vlm_answers}
    results = in_turn(contenders, common, options.rounds, console)
    for figures in results.values():
        figures["seconds"] = [round(s / figures["answers"], 3) for s in figures["seconds"]]
    return {"bench": "generate", "results": results}


def bench_convert(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Conversion to 4 bit, by our command and by mlx-vlm's."""
    commands = {
        "mlx_phi3v.convert": ["mlx_phi3v.convert", "--hf-path", options.model, "-q", "--q-bits", "4", "--dtype", "bfloat16"],
        "mlx_vlm.convert": ["mlx_vlm.convert", "--hf-path", options.model, "-q", "--q-bits", "4", "--dtype", "bfloat16"],
        "an interpreter that imports mlx": ["mlx"],
    }
    results: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, (module, *flags) in _chosen(commands, options).items():
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                target = Path(folder) / "out"
                command = [sys.executable, "-m", module, *flags, "--mlx-path", str(target)]
                if not flags:
                    command = [sys.executable, "-c", "import mlx.core, mlx.nn, numpy, mlx_phi3v.convert"]
                began = time.perf_counter()
                peak = _peak_of(command)
                seconds = round(time.perf_counter() - began, 2)
                shutil.rmtree(target, ignore_errors=True)
            entry = results.setdefault(name, {"seconds": [], "peak_gb": 0.0})
            entry["seconds"].append(seconds)
            entry["peak_gb"] = max(entry["peak_gb"], peak)
    return {"bench": "convert", "results": results}


def _peak_of(command: Sequence[str]) -> float:
    """Peak resident GB of a command, as the system counts it for that child alone."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def bench_scaling(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """A frozen and a cached step against crops, a cached one against rows and layers."""
    contenders: dict[str, dict[str, Any]] = {}
    for crops in (1, 4, 16):
        for cached in (False, True):
            name = f"{crops} crops{', cached' if cached else ''}"
            contenders[name] = {"who": "mlx", "crops": crops, "cached": cached}
    for count in (2, 4):
        contenders[f"{options.crops} crops, cached, {count} rows"] = {"who": "mlx", "cached": True, "rows": count}
    if options.deeper:
        layers = load_model_config(resolve_model(options.deeper)).num_hidden_layers
        contenders[f"{options.crops} crops, cached, {layers} layers"] = {"who": "mlx", "cached": True, "model": options.deeper}
    common = {"work": "train", "model": options.model, "crops": options.crops, "rows": 1, "steps": options.steps}
    report = {"bench": "scaling", "results": in_turn(_chosen(contenders, options), common, options.rounds, console)}
    if options.plot:
        plot_scaling(report, options.plot)
    return report


def bench_flat(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Peaks of MLX's own count early and late in a training run, and of the process, for 1,000 products and for 10,000."""
    results: dict[str, Any] = {}
    for products in (1000, 10_000):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            counts = ["--products", str(products), "--validation", "5", "--test", "5"]
            _peak_of([sys.executable, "-m", "data.sample", "--output", f"{folder}/data", *counts])
            flags = ["--max-steps", "1000", "--batch-size", "2", "--vision", "off", "--projector", "off", "--val-rows", "0"]
            began = time.perf_counter()
            command = ["mlx_phi3v.train", "--data", f"{folder}/data", "--output", f"{folder}/run", *flags]
            peak = _peak_of([sys.executable, "-m", *command])
            seconds = time.perf_counter() - began
            log = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        by_step = {record["step"]: record for record in log}
        results[f"{products} products"] = {
            "seconds": [round(seconds, 1)], "peak_gb": peak,
            "step_100": by_step[100]["peak_gb"], "step_1000": by_step[1000]["peak_gb"],
            "data_wait": statistics.median(record["data_wait"] for record in log),
        }  # fmt: skip
    return {"bench": "flat", "results": results}


def plot_scaling(report: dict[str, Any], path: Path) -> None:
    """Seconds and peak memory of a step of one row against its tokens, as a photo."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for cached, label in ((False, "tower runs, frozen"), (True, "features kept")):
        steps = [
            figures for figures in report["results"].values()
            if figures["job"].get("cached", False) == cached and figures["job"]["rows"] == 1
            and figures["job"]["model"] == next(iter(report["results"].values()))["job"]["model"]
        ]  # fmt: skip
        tokens = [max(figures["tokens"]) for figures in steps]
        time_axis.plot(tokens, [statistics.median(figures["seconds"]) for figures in steps], "o-", label=label)
        memory_axis.plot(tokens, [figures["peak_gb"] for figures in steps], "o-", label=label)
    for axis, title in ((time_axis, "seconds a step"), (memory_axis, "peak GB of the process")):
        axis.set(xlabel="tokens of the row (1, 4, 16 crops)", title=title, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def bench_operations(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What the operations of a layer take in MLX, by its own functions and by ours."""
    return {"bench": "operations", "results": run({"work": "operations", "who": "mlx"})["operations"]}


def _chosen(contenders: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {name: job for name, job in contenders.items() if not options.only or any(part in name for part in options.only)}


def show_operations(report: dict[str, Any], console: Console) -> None:
    """Milliseconds, forward and with the gradient."""
    table = Table(title="milliseconds, medians of five", title_justify="left")
    for name in ("", "MLX's own", "with gradient", "ours", "with gradient"):
        table.add_column(name, justify="left" if name == "" else "right")
    for name, pairs in report["results"].items():
        table.add_row(name, *(f"{value:.1f}" for pair in pairs for value in pair))
    console.print(table)


def show(report: dict[str, Any], console: Console) -> None:
    """The table; ratios are to the first row."""
    table = Table(title=f"{report['bench']}, medians", title_justify="left")
    extra = [
        key
        for key in ("tflop", "share_of_peak", "step_100", "step_1000", "data_wait")
        if any(key in f for f in report["results"].values())
    ]
    for name in ("", "s", "from", "to", "ratio", "peak GB", "ratio", *extra):
        table.add_column(name, justify="left" if name == "" else "right")
    first = next(iter(report["results"].values()))
    for name, figures in report["results"].items():
        seconds, base = statistics.median(figures["seconds"]), statistics.median(first["seconds"])
        cells = [f"{seconds:.2f}", f"{min(figures['seconds']):.2f}", f"{max(figures['seconds']):.2f}", f"{seconds / base:.3f}"]
        cells += [f"{figures['peak_gb']:.2f}", f"{figures['peak_gb'] / first['peak_gb']:.3f}"]
        table.add_row(name, *cells, *(f"{figures[key]:.3f}" for key in extra))
    console.print(table)
    for name, figures in report["results"].items():
        if figures.get("job", {}).get("check") and figures["job"].get("cached"):
            same = "the same as" if figures["same_as_batch_1"] else "NOT the same as"
            console.print(f"{name}: tokens are {same} one row at a time")
    if "peak_gflops" in report:
        console.print(f"matrix-product peak, GFLOP/s: {report['peak_gflops']}")


WORK = {"train": bench_train, "generate": bench_generate, "convert": bench_convert, "scaling": bench_scaling,
        "flat": bench_flat, "operations": bench_operations}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=tuple(WORK))
    parser.add_argument("--model", default="tiny", help="checkpoint folder, hub id, or 'tiny'")
    parser.add_argument("--crops", type=int, default=4, help="num_crops; a square photo at 4 gives 5 crops, 798 tokens at /14")
    parser.add_argument("--rounds", type=int, default=1, help="turns of every contender")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a turn, after one that does not count")
    parser.add_argument("--answers", type=int, default=16, help="generate: answers asked of our backends")
    parser.add_argument("--mlx-vlm-answers", type=int, default=2, help="generate: answers asked of mlx-vlm, one by one")
    parser.add_argument("--batch", type=int, default=8, help="generate: rows answered together")
    parser.add_argument(
        "--check",
        action="store_true",
        help="generate: with photos seen before, also answer at batch 1 and compare the tokens",
    )
    parser.add_argument("--only", nargs="*", default=[], help="only contenders whose name holds one of these")
    parser.add_argument("--deeper", help="scaling: a checkpoint of more layers")
    parser.add_argument("--plot", type=Path, help="scaling: also draw it there, as PNG or SVG (pip install matplotlib)")
    parser.add_argument("--folder", help="convert: where to write, for its speed and room")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args(argv)
    console = Console(stderr=options.json, highlight=False)
    report = WORK[options.bench](options, console)
    report["machine"] = {"cores": os.cpu_count(), "memory_gb": round(_memory() / 1e9, 1)}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        (show_operations if options.bench == "operations" else show)(report, console)
    return 0


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    raise SystemExit(main())
