"""The settings of the built-in job, and what follows from them: paths and numbers of rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.sample.products import MAX_PRODUCTS
from mlx_phi3v.backend import BACKENDS
from mlx_phi3v.cli import build, option, own_keys, read_yaml
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranges import MAX_SEED
from mlx_phi3v.training.train_config import TrainConfig

# The recipe for the tiny model, the same for both backends; found by trying, see docs/results.md.
RECIPE = Path(__file__).parent / "sample.yaml"
VALIDATION = 100  # products
FIRST_ROWS = 48  # test rows of the first answer
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
    recipe: Path = option(RECIPE, help="training settings as YAML, see mlx_phi3v.train --help")
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

    def model_for(self, backend: str) -> str:
        """MLX reads the converted folder, torch the published one: the comparison covers the conversion too."""
        return str(self.converted) if backend == "mlx" else self.model

    def adapter(self, backend: str) -> Path:
        """The folder of a backend's training."""
        return self.output / f"{backend}-adapter"

    def first_run(self, backend: str) -> Path:
        """The base model's answers to the first rows on a backend."""
        return self.output / f"{backend}-first"

    @property
    def floor_run(self) -> Path:
        """The same answers once more on the backend that trains, one row at a time: its noise floor."""
        return self.output / f"{self.tuned_on}-first-batch-1"

    def tuned_run(self, backend: str) -> Path:
        """The answers of the adapter on a backend."""
        trained = self.tuned_on
        return self.output / (f"{trained}-tuned" if backend == trained else f"{trained}-adapter-on-{backend}")

    @property
    def tuned_floor_run(self) -> Path:
        """The adapter's answers to the first rows where it was trained, one row at a time."""
        return self.output / f"{self.tuned_on}-tuned-batch-1"

    @cached_property
    def recipe_values(self) -> dict[str, Any]:
        """The recipe by our own names of the settings."""
        where = f"--recipe {self.recipe}"
        return own_keys(read_yaml(self.recipe, where), TrainConfig, "train", where)

    @cached_property
    def training(self) -> TrainConfig:
        """The recipe as the settings of a training. Raises UserError, naming the recipe, for one that is wrong."""
        own = {"data": self.catalogue, "output": self.output / "adapter"}  # the job gives its own
        return build(TrainConfig, self.recipe_values | own, f"--recipe {self.recipe}")

    @property
    def epochs(self) -> float:
        """Epochs of training."""
        return self.training.epochs

    @property
    def tower_frozen(self) -> bool:
        """Whether nothing on the image side is trained; only then may training use cached features."""
        recipe = self.recipe_values
        return bool(recipe.get("vision") == recipe.get("projector") == "off" == recipe.get("separators", "off"))


def check_settings(config: DemoConfig) -> None:
    """Raise UserError where nothing is left to train on, or the flags or the recipe do not fit."""
    if config.tuned_on not in config.backends:
        raise UserError(f"--tune-on {config.tuned_on} is not one of --backends {' '.join(config.backends)}")
    if config.training_rows < _LEAST_TO_TRAIN:
        raise UserError(
            f"--products {config.products} leaves too few to train on, after {VALIDATION} to validate and --test {config.test}"
        )
    _ = config.training
