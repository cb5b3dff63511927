"""The whole job on the built-in model and data: convert, tune on MLX and on torch, predict, compare.

    python -m eval                       the sample catalogue, the tiny model, both backends
    python -m eval --output runs/two --products 3000 --backends mlx

Nothing is downloaded. An interrupted run goes on where it stopped when the same command is given again. OUTPUT holds
the catalogue, the converted model, both adapters, the predictions and report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from mlx_phi3v import cli
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.training.settings import TrainConfig

from .demo.demo import DemoConfig, conclude
from .demo.jobs import Display, Job, run_jobs


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
    recipe = cli.own_keys(cli.read_yaml(config.recipe), TrainConfig, "train", f"--recipe {config.recipe}")
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


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
