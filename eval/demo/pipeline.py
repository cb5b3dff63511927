"""The built-in job, step by step: draw, convert, a first answer, tune once, answer on both backends, report.

Each step is a command of this project in a process of its own. What an earlier run finished is not done again.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from mlx_phi3v.files import folder_in_place
from mlx_phi3v.loggers.choice import chosen
from mlx_phi3v.loggers.record import RECORD_FILE
from mlx_phi3v.progress import result

from .final_report import print_same_computation
from .first_answer import say_first_answer
from .job_record import RECORD, begin, record_of
from .jobs import Display, Job, run_chains, run_jobs, unfinished
from .seed_sets import note_look, train_sets
from .seeds_report import report_sets
from .settings import ANSWER_FLAGS, VALIDATION, DemoConfig, check_settings

_ALONE = ("--batch-size", "1")
_DRAWING = 0.1  # work of drawing a row's photo, where answering the row is 1


def run_demo(config: DemoConfig) -> int:
    """Run the job; its exit status.

    Raises UserError for wrong settings, for others than OUTPUT was begun with, where another process is writing OUTPUT, and
    where a command fails.
    """
    check_settings(config)
    record = record_of(config)
    console = Console(stderr=config.json)
    display = Display(_total_work(config), console, config.json)
    with folder_in_place(config.output):
        before = begin(config.output, record)
        with display.bars:
            draw(config, display)
            convert(config, display)
            answer_first(config, display)
            tune_and_answer(config, display)
            if config.seeds:
                train_sets(config.sets, display)
        told = print_same_computation(config, console)
        if config.seeds:
            told = report_sets(
                config.sets, console, config.seeds_report, before=before, command=config.command, as_json=config.json
            )
            note_look(config.output / RECORD, told)
        result(config.json, event="done", output=str(config.output), **told)
        return 0


def draw(config: DemoConfig, display: Display) -> None:
    """Draw the sample catalogue, unless it is there."""
    if (config.catalogue / "catalogue.json").exists():
        return
    arguments = ["--output", str(config.catalogue), "--products", str(config.products), "--seed", str(config.seed)]
    arguments += ["--validation", str(VALIDATION), "--test", str(config.test)]
    with display.stage(f"Drawing a sample catalogue of {config.products} products"):
        run_jobs([Job("drawing", "data.sample", arguments, _DRAWING * config.products)], display)


def convert(config: DemoConfig, display: Display) -> None:
    """Convert the model to MLX, unless it is there."""
    if (config.converted / "config.json").exists():
        return
    arguments = ["--hf-path", config.model, "--mlx-path", str(config.converted), "--dtype", "float32"]
    arguments += ["--no-probe", "--receipt", "0"]  # the demo compares the two itself
    with display.stage(f"Converting the model {config.model} to MLX"):
        run_jobs([Job("converting", "mlx_phi3v.convert", arguments, 0.0)], display)


def answer_first(config: DemoConfig, display: Display) -> None:
    """Answer a few rows with the base model on every backend, and say whether they compute the same."""
    few = ["--limit", str(config.first_rows)]
    chains = {backend: [_answer(config, backend, config.first_run(backend), *few)] for backend in config.backends}
    if config.other:
        chains[config.tuned_on].append(_answer(config, config.tuned_on, config.floor_run, *few, *_ALONE))
    _run(f"Answering {config.first_rows} test rows with the base model", chains.values(), display)
    if config.other:
        say_first_answer(config, display)


def tune_and_answer(config: DemoConfig, display: Display) -> None:
    """Tune once, going on where an earlier run was stopped, and answer the test split with the adapter on every backend."""
    adapter = ["--adapter", str(config.adapter)]
    chains = {backend: [_answer(config, backend, config.tuned_run(backend), *adapter)] for backend in config.backends}
    if config.other:
        few = ["--limit", str(config.first_rows)]
        chains[config.tuned_on].append(_answer(config, config.tuned_on, config.tuned_floor_run, *adapter, *few, *_ALONE))
    unreported = chosen(config.report_to) and not (config.adapter / RECORD_FILE).exists()
    if unfinished(chains.values()) or unreported:
        with display.stage(f"Tuning on {config.training_rows} rows, {config.epochs:g} epochs, on {config.tuned_on}"):
            run_jobs([config.sets.train(config.tuned_on, config.sets.first)], display)
    _run(f"Answering {config.test} test rows with the tuned model", chains.values(), display)


def _run(stage: str, chains: Collection[list[Job]], display: Display) -> None:
    """Run what an earlier run has not finished."""
    left = unfinished(chains)
    if left:
        with display.stage(stage):
            run_chains(left, display, at_once=len(chains))


def _total_work(config: DemoConfig) -> float:
    # Counted in photos: answering a row costs about as much as training on one.
    answers = len(config.backends) * (config.first_rows + config.test) + (2 * config.first_rows if config.other else 0)
    sets = config.sets.work - config.training_rows * config.epochs - config.test if config.seeds else 0.0
    return answers + config.training_rows * config.epochs + _DRAWING * config.products + sets


def _answer(config: DemoConfig, backend: str, output: Path, *flags: str) -> Job:
    """Answer the test split, or a part of it, into the run `output`."""
    arguments = ["--backend", backend, "--model", config.model_for(backend), "--data", str(config.catalogue)]
    arguments += ["--output", str(output), "--label", output.name, *ANSWER_FLAGS, *flags]
    if flags[-2:] != _ALONE:  # for the noise floor the tower works again too
        arguments += ["--feature-cache", str(config.output / "features")]
    rows = config.first_rows if "--limit" in flags else config.test
    return Job(f"{output.name} answering", "eval.predict", arguments, float(rows), run=output)
