"""The built-in job, step by step: draw, convert, predict with the base model, tune, predict with the adapters, report.

Each step is a command of this project in a process of its own. What an earlier run finished is not done again.
"""

from __future__ import annotations

from rich.console import Console

from mlx_phi3v.files import folder_in_place

from .final_report import print_final_report
from .job_record import begin, record_of
from .jobs import Display, Job, run_jobs
from .settings import VALIDATION, DemoConfig, check_settings

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
        begin(config.output, record)
        with display.bars:
            draw(config, display)
            convert(config, display)
            predict_base(config, display)
            tune(config, display)
            predict_tuned(config, display)
        return print_final_report(config, console)


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
    with display.stage(f"Converting the model {config.model} to MLX"):
        run_jobs([Job("converting", "mlx_phi3v.convert", arguments, 0.0)], display)


def predict_base(config: DemoConfig, display: Display) -> None:
    """Predict with the base model on every backend."""
    with display.stage(f"Predicting {config.test} test rows with the base model"):
        run_jobs([_predict(config, backend, "base") for backend in config.backends], display)


def tune(config: DemoConfig, display: Display) -> None:
    """Tune on every backend, going on where an earlier run was stopped."""
    names = " and ".join(config.backends)
    with display.stage(f"Tuning on {config.training_rows} rows, {config.epochs:g} epochs, on {names}"):
        run_jobs([_train(config, backend) for backend in config.backends], display)


def predict_tuned(config: DemoConfig, display: Display) -> None:
    """Predict with the tuned models."""
    with display.stage(f"Predicting {config.test} test rows with the tuned models"):
        run_jobs([_predict(config, backend, "tuned") for backend in config.backends], display)


def _total_work(config: DemoConfig) -> float:
    # Counted in photos: answering a row costs about as much as training on one.
    per_backend = 2 * config.test + config.training_rows * config.epochs
    return len(config.backends) * per_backend + _DRAWING * config.products


def _predict(config: DemoConfig, backend: str, stage: str) -> Job:
    output = config.run(backend, stage)
    arguments = ["--backend", backend, "--model", config.model_for(backend), "--data", str(config.catalogue)]
    arguments += ["--output", str(output), "--label", output.name, "--feature-cache", str(config.output / "features")]
    if stage == "tuned":
        arguments += ["--adapter", str(config.adapter(backend))]
    return Job(f"{output.name} answering", "eval.predict", arguments, float(config.test))


def _train(config: DemoConfig, backend: str) -> Job:
    arguments = ["--config", str(config.recipe), "--backend", backend, "--model", config.model_for(backend)]
    arguments += ["--data", str(config.catalogue), "--output", str(config.adapter(backend)), "--resume"]
    if config.tower_frozen:
        arguments += ["--feature-cache", str(config.output / "features")]
    return Job(f"{backend} tuning", "mlx_phi3v.train", arguments, config.training_rows * config.epochs)
