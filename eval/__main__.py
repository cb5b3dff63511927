"""The whole job on the built-in model and data: convert, tune on MLX and on torch, predict, compare.

    python -m eval                       the sample catalogue, the tiny model, both backends
    python -m eval --output runs/two --products 3000 --backends mlx

Nothing is downloaded. An interrupted run goes on where it stopped when the same command is given again. OUTPUT holds
the catalogue, the converted model, both adapters, the predictions and report.html.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlx_phi3v import cli
from mlx_phi3v.backend import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.progress import result

from . import page, report
from .comparison import compare_runs
from .run import Run

# The recipe for the tiny model, used by both backends alike; found by trying, see docs/results.md.
RECIPE = Path(__file__).parent / "sample.yaml"


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the built-in job."""

    output: Path = option(Path("runs/sample"), help="folder for everything the job makes")
    products: int = option(4600, help="products in the sample catalogue, of which 100 validate and --test are held out")
    test: int = option(500, help="products never trained on")
    seed: int = option(1, help="seed of the catalogue")
    model: str = option("tiny", help="model to start from")
    backends: tuple[str, ...] = option(BACKENDS, help="backends to tune on", choices=BACKENDS)
    recipe: Path = option(RECIPE, help="training settings as YAML, see mlx_phi3v.train --help")
    json: bool = option(False, help="results as JSON lines on stdout")


@dataclass
class Job:
    """One command of a stage. `work` is its share of the overall bar."""

    label: str
    module: str
    arguments: list[str]
    work: float
    summary: dict[str, Any] = field(default_factory=dict)
    done: float = 0.0


class Display:
    """An overall bar and one bar per running command on a terminal; plain lines off it."""

    def __init__(self, total: float, console: Console, as_json: bool) -> None:
        self.console, self.as_json = console, as_json
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description:<28}"), BarColumn(bar_width=24), TaskProgressColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=console, disable=as_json or not console.is_terminal,
        )  # fmt: skip
        self.overall = self.bars.add_task("[bold]whole job", total=total, note="")

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Say what begins and, at its end, how long it took."""
        started = time.monotonic()
        self.say(f"{text} ...")
        yield
        self.say(f"{text}: {time.monotonic() - started:.0f} s")

    def say(self, text: str) -> None:
        """A line above the bars."""
        if not self.as_json:
            self.bars.console.print(f"[dim]{time.monotonic() - self.started:5.0f} s[/]  {text}", highlight=False)

    def follow(self, job: Job, stream: Any) -> None:
        """Move the bars by a command's JSON lines."""
        task = self.bars.add_task(f"  {job.label}", total=None, note="")
        for line in stream:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            with self.lock:
                if event.get("event") == "progress" and event["total"]:
                    share = job.work * event["done"] / event["total"]
                    self.bars.update(task, total=event["total"], completed=event["done"], note=_note(event))
                    self.bars.advance(self.overall, share - job.done)
                    job.done = share
                elif event.get("event") != "step":
                    job.summary = event
        with self.lock:
            self.bars.advance(self.overall, job.work - job.done)
            self.bars.remove_task(task)


def _note(event: dict[str, Any]) -> str:
    shown = {"loss": "loss {:.3f}", "rows_per_second": "{:.1f} rows/s", "val_loss": "validation {:.3f}"}
    return "  ".join(text.format(event[key]) for key, text in shown.items() if key in event)


def run_jobs(jobs: Sequence[Job], display: Display) -> None:
    """Run commands side by side, the cores shared out among them. Raises UserError with the failing one's own words."""
    threads = str(max(1, (os.cpu_count() or 2) // len(jobs)))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    running: list[tuple[Job, subprocess.Popen[str], threading.Thread, list[str]]] = []
    try:
        for job in jobs:
            command = [sys.executable, "-m", job.module, *job.arguments, "--json"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            errors: list[str] = []
            threading.Thread(target=lambda stream=process.stderr, kept=errors: kept.extend(stream or ()), daemon=True).start()
            follower = threading.Thread(target=display.follow, args=(job, process.stdout), daemon=True)
            follower.start()
            running.append((job, process, follower, errors))
        for job, process, follower, errors in running:
            status = process.wait()
            follower.join()
            if status:
                words = [line.strip() for line in errors if line.strip()]
                ours = [line.removeprefix("error: ") for line in words if line.startswith("error: ")]
                raise UserError(
                    f"{job.label} failed: {ours[-1] if ours else ' | '.join(words[-3:]) or f'exit status {status}'}"
                )
    finally:
        for _, process, _, _ in running:
            if process.poll() is None:
                process.terminate()
                process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(DemoConfig, "python -m eval", __doc__ or "", argv)
    out = config.output
    console = Console(stderr=config.json)
    catalogue, model = out / "catalogue", out / "model"
    validation = 100
    if config.products < config.test + validation + 10:
        raise UserError(
            f"--products {config.products} leaves none to train on after {validation} for validation and --test {config.test}"
        )
    recipe = cli.read_yaml(config.recipe)
    epochs = float(recipe.get("epochs", 1))
    # Only then may a training use kept features; answering always may.
    frozen = recipe.get("vision") == recipe.get("projector") == "off" == recipe.get("separators", "off")
    rows = config.products - config.test - validation
    # Work in pictures: reading a prompt and answering costs about as much as training on one.
    predicting, training = float(config.test), rows * epochs
    total = len(config.backends) * (2 * predicting + training) + 0.1 * config.products
    display = Display(total, console, config.json)
    with display.bars:
        if not (catalogue / "catalogue.json").exists():
            with display.stage(f"Drawing a sample catalogue of {config.products} products"):
                counts = ["--validation", str(validation), "--test", str(config.test)]
                arguments = [
                    "--output",
                    str(catalogue),
                    "--products",
                    str(config.products),
                    "--seed",
                    str(config.seed),
                    *counts,
                ]
                run_jobs([Job("drawing", "data.sample", arguments, 0.1 * config.products)], display)
        if not (model / "config.json").exists():
            with display.stage(f"Converting the model {config.model} to MLX"):
                arguments = ["--hf-path", config.model, "--mlx-path", str(model), "--dtype", "float32"]
                run_jobs([Job("converting", "mlx_phi3v.convert", arguments, 0.0)], display)
        # MLX reads the converted folder, torch the published one: the comparison covers the conversion too.
        models = {"mlx": str(model), "torch": config.model}

        def predict(name: str, backend: str, adapter: Path | None) -> Job:
            arguments = ["--backend", backend, "--model", models[backend], "--data", str(catalogue)]
            arguments += [
                "--output",
                str(out / name),
                "--label",
                name,
                "--feature-cache",
                str(out / "features"),
                *(["--adapter", str(adapter)] if adapter else []),
            ]
            return Job(f"{name} answering", "eval.predict", arguments, predicting)

        with display.stage(f"Asking the untuned model about {config.test} test products"):
            run_jobs([predict(f"{b}-base", b, None) for b in config.backends], display)
        with display.stage(f"Tuning on {rows} products, {epochs:g} epochs, on {' and '.join(config.backends)}"):
            jobs = []
            for backend in config.backends:
                arguments = ["--config", str(config.recipe), "--backend", backend, "--model", models[backend]]
                arguments += ["--data", str(catalogue), "--output", str(out / f"{backend}-adapter"), "--resume"]
                arguments += ["--feature-cache", str(out / "features")] if frozen else []
                jobs.append(Job(f"{backend} tuning", "mlx_phi3v.train", arguments, training))
            run_jobs(jobs, display)
        with display.stage(f"Asking the tuned models about {config.test} test products"):
            run_jobs([predict(f"{b}-tuned", b, out / f"{b}-adapter") for b in config.backends], display)
    return conclude(config, console)


def conclude(config: DemoConfig, console: Console) -> int:
    """Print the table of all runs and the verdict, and write the page."""
    out = config.output
    runs = [Run.load(out / f"{b}-{stage}") for stage in ("base", "tuned") for b in config.backends]
    if not config.json:
        console.rule("Base and tuned, on products never trained on")
        report.print_table(console, runs, runs[-1])
    if len(config.backends) == 1:
        result(config.json, event="done", output=str(out))
        return 0
    # Two trainings make two adapters and two bases on disk: those differences are what is being compared.
    comparison = compare_runs(runs[-2], runs[-1], allow=("adapter", "base"))
    page.write_page(out / "report.html", comparison)
    if not config.json:
        console.rule(f"{runs[-2].label} against {runs[-1].label}")
        report.print_comparison(console, comparison)
        console.print(f"The same as a page: {out / 'report.html'}", highlight=False)
    result(config.json, event="done", output=str(out), verdict=comparison.verdict)
    return 0


if __name__ == "__main__":
    run_cli(main)
