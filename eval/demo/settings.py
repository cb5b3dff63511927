"""The settings of the built-in job, and what follows from them: paths and numbers of rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from data.sample.settings import MAX_PRODUCTS
from mlx_phi3v.backend_names import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError
from mlx_phi3v.loggers.choice import LOGGERS, chosen, require_usable
from mlx_phi3v.ranges import MAX_SEED

from .recipe import Recipe
from .seed_flags import MAX_SEEDS, same_command

if TYPE_CHECKING:
    from .seed_sets import SeedSets

# The recipe for the tiny model, the same for both backends; found by trying, see docs/results.md.
RECIPE = Path(__file__).parent / "sample.yaml"
VALIDATION = 100  # products
FIRST_ROWS = 48  # test rows of the first answer
# fp32 on every machine: in bf16 two backends differ by more than their arithmetic needs to.
ANSWER_FLAGS = ("--dtype", "float32")
_LEAST_TO_TRAIN = 10


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the built-in job."""

    output: Path = option(Path("runs/sample"), help="folder for everything the job makes", writes="folder")
    products: int = option(
        2000, help="products in the sample catalogue, of which 100 validate and --test test",
        at_least=1, at_most=MAX_PRODUCTS,
    )  # fmt: skip
    test: int = option(400, help="products of the test split", at_least=1, at_most=MAX_PRODUCTS)
    seed: int = option(1, help="seed of the catalogue", at_least=0, at_most=MAX_SEED)
    model: str = option("tiny", help="model to start from", path=True)
    backends: tuple[str, ...] = option(BACKENDS, help="backends to answer on; with one, nothing is compared", choices=BACKENDS)
    tune_on: str | None = option(
        None, help="backend to tune on; by default MLX on a Mac, torch elsewhere, as there it is the faster", choices=BACKENDS
    )
    seeds: int | None = option(
        None, help="also train with so many seeds on every backend, and compare the trainings", at_least=1, at_most=MAX_SEEDS
    )
    recipe: Path = option(RECIPE, help="training settings as YAML, see mlx_phi3v.train --help")
    report_to: tuple[str, ...] = option(
        (), help=f"where the training and its verdict are shown: {', '.join(LOGGERS)}, several with commas"
    )
    json: bool = option(False, help="results as JSON lines on stdout")

    @property
    def tuned_on(self) -> str:
        """The backend that trains the adapter."""
        if self.tune_on is not None:
            return self.tune_on
        faster = "mlx" if sys.platform == "darwin" else "torch"
        return faster if faster in self.backends else self.backends[0]

    @property
    def other(self) -> str | None:
        """The backend that answers with the other's adapter; None where there is one backend only."""
        return next((backend for backend in self.backends if backend != self.tuned_on), None)

    @property
    def first_rows(self) -> int:
        """Test rows that the base model answers."""
        return min(FIRST_ROWS, self.test)

    @property
    def training_rows(self) -> int:
        """Rows to train on."""
        return self.products - self.test - VALIDATION

    @property
    def catalogue(self) -> Path:
        """The folder of the sample catalogue."""
        return self.output / "catalogue"

    @property
    def converted(self) -> Path:
        """The folder of the model converted to MLX."""
        return self.output / "model"

    @property
    def report(self) -> Path:
        """The page."""
        return self.output / "report.html"

    @property
    def command(self) -> str:
        """The command that goes on from what is in `output`."""
        return same_command("python -m eval", self)

    @property
    def seeds_report(self) -> Path:
        """The page of claim (b)."""
        return self.output / "seeds.html"

    def model_for(self, backend: str) -> str:
        """MLX reads the converted folder, torch the published one: the comparison covers the conversion too."""
        return str(self.converted) if backend == "mlx" else self.model

    @property
    def adapter(self) -> Path:
        """The folder of the training that claim (a) uses."""
        return self.sets.adapter(self.tuned_on, self.sets.first)

    def first_run(self, backend: str) -> Path:
        """The base model's answers to the first rows on a backend."""
        return self.output / f"{backend}-first"

    @property
    def floor_run(self) -> Path:
        """The same answers once more on the backend that trains, one row at a time: its noise floor."""
        return self.output / f"{self.tuned_on}-first-batch-1"

    def tuned_run(self, backend: str) -> Path:
        """The answers of the adapter on a backend."""
        if backend == self.tuned_on:
            return self.sets.run(backend, self.sets.first)
        return self.output / f"{self.tuned_on}-adapter-on-{backend}"

    @property
    def tuned_floor_run(self) -> Path:
        """The adapter's answers to the first rows where it was trained, one row at a time."""
        return self.output / f"{self.tuned_on}-tuned-batch-1"

    @cached_property
    def training(self) -> Recipe:
        """The recipe."""
        return Recipe(self.recipe, self.output)

    @property
    def epochs(self) -> float:
        """Epochs of training."""
        return self.training.training.epochs

    @cached_property
    def sets(self) -> SeedSets:
        """The trainings of claim (b), of which the first on `tuned_on` is the one that claim (a) uses."""
        from .seed_sets import SeedSets  # with what runs commands: the flags alone need none of it

        return SeedSets(
            output=self.output, data=self.catalogue, models={backend: self.model_for(backend) for backend in self.backends},
            seeds=self.seeds or 1, recipe=self.training, at_once=2, answer_flags=ANSWER_FLAGS,
            training_work=self.training_rows * self.epochs, answer_work=float(self.test),
            train_flags=("--report-to", *chosen(self.report_to)) if chosen(self.report_to) else (),
        )  # fmt: skip


def check_settings(config: DemoConfig) -> None:
    """Raise UserError where nothing is left to train on, or the flags or the recipe do not fit."""
    if config.tuned_on not in config.backends:
        raise UserError(f"--tune-on {config.tuned_on} is not one of --backends {' '.join(config.backends)}")
    if config.training_rows < _LEAST_TO_TRAIN:
        raise UserError(
            f"--products {config.products} leaves too few to train on, after {VALIDATION} to validate and --test {config.test}"
        )
    _ = config.training.training
    require_usable(chosen(config.report_to))
