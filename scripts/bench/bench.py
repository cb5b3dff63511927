"""Speed and memory, ours beside mlx-vlm and torch, on one checkpoint, in turn, in one run.

    python scripts/bench/bench.py train --model CHECKPOINT        a training step: plain, cached, with the image side
    python scripts/bench/bench.py generate --model CHECKPOINT     answers of 32 tokens, photos new and seen before
    python scripts/bench/bench.py convert --model CHECKPOINT      to 4 bit
    python scripts/bench/bench.py scaling --model CHECKPOINT      a step against crops, rows and layers
    python scripts/bench/bench.py flat                            memory over 1,000 steps of the tiny model, and 10 times rows
    python scripts/bench/bench.py operations                      what a layer's operations take in MLX, its own and ours

CHECKPOINT: such as scripts/bench/make_checkpoint.py writes, or "tiny". Every candidate runs in a process of its own,
round after round; the table gives the median and the spread over all rounds. Peaks are of resident memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_processes import in_turn, peak_of, peaks, run
from bench_report import plot_scaling, show, show_operations
from rich.console import Console

from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.training.step_shape import BatchShape, StepSettings
from mlx_phi3v.training.step_work import step_flops

TRAIN = {
    "mlx-vlm, image side frozen": {"who": "mlx-vlm"},
    "mlx, image side frozen": {"who": "mlx"},
    "torch, image side frozen": {"who": "torch"},
    "mlx, features cached": {"who": "mlx", "cached": True},
    "torch, features cached": {"who": "torch", "cached": True},
    "mlx, features cached, compiled": {"who": "mlx", "cached": True, "compile": True},
    "torch, features cached, compiled": {"who": "torch", "cached": True, "compile": True},
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


def bench_train(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Steps of every candidate, with the share of the matrix-product peak."""
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
    training = StepSettings(AdapterArgs(target_modules=targets), "float32", False, encode=not job.get("cached"))
    shape = BatchShape(len(figures["tokens"]), max(figures["tokens"]), sum(figures["images"]), figures["labels"])
    return sum(step_flops(load_model_config(resolve_model(model)), shape, training))


def bench_generate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Answers a second; the seconds are of one answer."""
    common = {"work": "generate", "model": options.model, "crops": options.crops, "rows": options.answers,
              "batch": options.batch, "new_tokens": 32, "check": options.check}  # fmt: skip
    candidates = _chosen(GENERATE, options)
    if "mlx-vlm" in candidates:
        candidates["mlx-vlm"] |= {"rows": options.mlx_vlm_answers}
    results = in_turn(candidates, common, options.rounds, console)
    for figures in results.values():
        figures["seconds"] = [round(s / figures["answers"], 3) for s in figures["seconds"]]
    return {"bench": "generate", "results": results}


def bench_convert(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Conversion to 4 bit, by our command and by mlx-vlm's."""
    commands = {
        "mlx_phi3v.convert": [
            "mlx_phi3v.convert",
            "--hf-path",
            options.model,
            "-q",
            "--q-bits",
            "4",
            "--dtype",
            "bfloat16",
            "--no-probe",
            "--receipt",
            "0",
        ],
        "mlx_vlm.convert": ["mlx_vlm.convert", "--hf-path", options.model, "-q", "--q-bits", "4", "--dtype", "bfloat16"],
        "an interpreter that imports mlx": ["mlx"],
    }
    results: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, (module, *flags) in _chosen(commands, options).items():
            seconds, peak = _time_conversion(module, flags, options.folder)
            entry = results.setdefault(name, {"seconds": [], "peak_gb": 0.0})
            entry["seconds"].append(seconds)
            entry["peak_gb"] = max(entry["peak_gb"], peak)
    return {"bench": "convert", "results": results}


def _time_conversion(module: str, flags: Sequence[str], where: str | None) -> tuple[float, float]:
    """(seconds, peak GB) of a conversion; without flags, of an interpreter that imports what conversion needs."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        target = Path(folder) / "out"
        command = [sys.executable, "-m", module, *flags, "--mlx-path", str(target)]
        if not flags:
            command = [sys.executable, "-c", "import mlx.core, mlx.nn, numpy, mlx_phi3v.convert"]
        began = time.perf_counter()
        peak = peak_of(command)
        seconds = round(time.perf_counter() - began, 2)
        shutil.rmtree(target, ignore_errors=True)
    return seconds, peak


def bench_scaling(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """A frozen and a cached step against crops, a cached one against rows and layers."""
    candidates: dict[str, dict[str, Any]] = {}
    for crops in (1, 4, 16):
        for cached in (False, True):
            name = f"{crops} crops{', cached' if cached else ''}"
            candidates[name] = {"who": "mlx", "crops": crops, "cached": cached}
    for count in (2, 4):
        candidates[f"{options.crops} crops, cached, {count} rows"] = {"who": "mlx", "cached": True, "rows": count}
    if options.deeper:
        layers = load_model_config(resolve_model(options.deeper)).num_hidden_layers
        candidates[f"{options.crops} crops, cached, {layers} layers"] = {"who": "mlx", "cached": True, "model": options.deeper}
    common = {"work": "train", "model": options.model, "crops": options.crops, "rows": 1, "steps": options.steps}
    report = {"bench": "scaling", "results": in_turn(_chosen(candidates, options), common, options.rounds, console)}
    if options.plot:
        plot_scaling(report, options.plot)
    return report


def bench_flat(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Peaks of MLX's own count early and late in a training run, and of the process, for 1,000 products and for 10,000."""
    results: dict[str, Any] = {}
    for products in (1000, 10_000):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            counts = ["--products", str(products), "--validation", "5", "--test", "5"]
            peak_of([sys.executable, "-m", "data.sample", "--output", f"{folder}/data", *counts])
            flags = ["--max-steps", "1000", "--batch-size", "2", "--vision", "off", "--projector", "off", "--val-rows", "0"]
            began = time.perf_counter()
            command = ["mlx_phi3v.train", "--data", f"{folder}/data", "--output", f"{folder}/run", *flags]
            peak = peak_of([sys.executable, "-m", *command])
            seconds = time.perf_counter() - began
            log = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
        by_step = {record["step"]: record for record in log}
        results[f"{products} products"] = {
            "seconds": [round(seconds, 1)], "peak_gb": peak,
            "step_100": by_step[100]["peak_gb"], "step_1000": by_step[1000]["peak_gb"],
            "data_wait": statistics.median(record["data_wait"] for record in log),
        }  # fmt: skip
    return {"bench": "flat", "results": results}


def bench_operations(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What the operations of a layer take in MLX, by its own functions and by ours."""
    return {"bench": "operations", "results": run({"work": "operations", "who": "mlx"})["operations"]}


def _chosen(candidates: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {name: job for name, job in candidates.items() if not options.only or any(text in name for text in options.only)}


WORK = {"train": bench_train, "generate": bench_generate, "convert": bench_convert, "scaling": bench_scaling,
        "flat": bench_flat, "operations": bench_operations}  # fmt: skip


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=tuple(WORK))
    parser.add_argument("--model", default="tiny", help="checkpoint folder, hub id, or 'tiny'")
    parser.add_argument("--crops", type=int, default=4, help="num_crops; a square photo at 4 gives 5 crops, 798 tokens at /14")
    parser.add_argument("--rounds", type=int, default=1, help="turns of every candidate")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a turn, after one that does not count")
    parser.add_argument("--answers", type=int, default=16, help="generate: answers asked of our backends")
    parser.add_argument("--mlx-vlm-answers", type=int, default=2, help="generate: answers asked of mlx-vlm, one by one")
    parser.add_argument("--batch", type=int, default=8, help="generate: rows answered together")
    parser.add_argument(
        "--check",
        action="store_true",
        help="generate: with photos seen before, also answer at batch 1 and compare the tokens",
    )
    parser.add_argument("--only", nargs="*", default=[], help="only candidates whose name holds one of these")
    parser.add_argument("--deeper", help="scaling: a checkpoint of more layers")
    parser.add_argument("--plot", type=Path, help="scaling: also draw it there, as PNG or SVG (pip install matplotlib)")
    parser.add_argument("--folder", help="convert: where to write, for its speed and room")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args(argv)
    if options.plot and importlib.util.find_spec("matplotlib") is None:  # said before the minutes of measuring, not after
        parser.error("--plot needs matplotlib: pip install matplotlib")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one bench."""
    options = read_options(argv)
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
