"""The settings of the built-in job, and what follows from them: paths and numbers of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.sample.products import MAX_PRODUCTS
from mlx_phi3v.backend import BACKENDS
from mlx_phi3v.cli import build, option, own_keys, read_yaml
from mlx_phi3v.errors import UserError
from mlx_phi3v.outputs import output_path
from mlx_phi3v.ranges import MAX_SEED
from mlx_phi3v.training.train_config import TrainConfig

# The recipe for the tiny model, the same for both backends; found by trying, see docs/results.md.
RECIPE = Path(__file__).parent / "sample.yaml"
VALIDATION = 100  # products
_LEAST_TO_TRAIN = 10


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the built-in job."""

    output: Path = option(Path("runs/sample"), help="folder for everything the job makes", writes="folder")
    products: int = option(
        4600, help="products in the sample catalogue, of which 100 validate and --test test",
        at_least=1, at_most=MAX_PRODUCTS,
    )  # fmt: skip
    test: int = option(500, help="products of the test split", at_least=1, at_most=MAX_PRODUCTS)
    seed: int = option(1, help="seed of the catalogue", at_least=0, at_most=MAX_SEED)
    model: str = option("tiny", help="model to start from", path=True)
    backends: tuple[str, ...] = option(BACKENDS, help="backends to tune on", choices=BACKENDS)
    recipe: Path = option(RECIPE, help="training settings as YAML, see mlx_phi3v.train --help")
    json: bool = option(False, help="results as JSON lines on stdout")

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
        """The page of the comparison."""
        return self.output / "report.html"

    def model_for(self, backend: str) -> str:
        """MLX reads the converted folder, torch the published one: the comparison covers the conversion too."""
        return str(self.converted) if backend == "mlx" else self.model

    def adapter(self, backend: str) -> Path:
        """The folder of a backend's training."""
        return self.output / f"{backend}-adapter"

    def run(self, backend: str, stage: str) -> Path:
        """The folder of a backend's predictions; `stage` is "base" or "tuned"."""
        return self.output / f"{backend}-{stage}"

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
    """Raise UserError where nothing is left to train on, or the recipe cannot be read."""
    if config.training_rows < _LEAST_TO_TRAIN:
        raise UserError(
            f"--products {config.products} leaves too few to train on, after {VALIDATION} to validate and --test {config.test}"
        )
    _ = config.training
    output_path(config.report, "html", "the report's page")
