"""The settings of trainings with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_phi3v.backend_names import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.ranges import MAX_ROWS

from .recipe import Recipe
from .seed_flags import MAX_SEEDS, same_command

if TYPE_CHECKING:
    from mlx_phi3v.catalogue import Catalogue

    from .seed_sets import SeedSets


@dataclass(frozen=True)
class SeedsConfig:
    """Settings of trainings with several seeds."""

    data: Path = option(help="catalogue folder, made by data.ingest or data.sample")
    output: Path = option(help="folder for all trainings and runs; what is there is continued", writes="folder")
    seeds: int = option(5, help="trainings on each backend", at_least=1, at_most=MAX_SEEDS)
    model: str = option("tiny", help="checkpoint folder, hub id, or 'tiny' (built in)", path=True)
    mlx_model: str | None = option(
        None, help="the same model as mlx_phi3v.convert wrote it, for MLX (default: --model)", path=True
    )
    backends: tuple[str, ...] = option(BACKENDS, help="backends that train on this machine", choices=BACKENDS)
    recipe: Path | None = option(
        None, help="training settings as YAML, see mlx_phi3v.train --help; its seed is the first"
    )  # fmt: skip
    split: str = option("test", help="split to answer")
    limit: int | None = option(None, help="answer only the first rows", at_least=1, at_most=MAX_ROWS)
    at_once: int = option(
        1, help="trainings that run at the same time, the cores shared out among them", at_least=1, at_most=64
    )
    json: bool = option(False, help="results as JSON lines on stdout")

    def model_for(self, backend: str) -> str:
        """The checkpoint of a backend."""
        return self.mlx_model if backend == "mlx" and self.mlx_model else self.model

    @property
    def command(self) -> str:
        """This command without --seeds, to go on with more of them."""
        return same_command("python -m eval.train_seeds", self)

    @cached_property
    def sets(self) -> SeedSets:
        """The trainings."""
        from mlx_phi3v.catalogue import Catalogue  # with what reads rows and runs commands: the flags need none of it

        from .seed_sets import SeedSets

        recipe = Recipe(self.recipe, self.output)
        catalogue = Catalogue(self.data)
        rows = len(catalogue.split(self.split))
        limit = () if self.limit is None else ("--limit", str(self.limit))
        return SeedSets(
            output=self.output, data=self.data, models={backend: self.model_for(backend) for backend in self.backends},
            seeds=self.seeds, recipe=recipe, at_once=self.at_once, answer_flags=("--split", self.split, *limit),
            training_work=_training_work(recipe, catalogue), answer_work=float(min(rows, self.limit or rows)),
        )  # fmt: skip


def _training_work(recipe: Recipe, catalogue: Catalogue) -> float:
    """Rows that a training draws."""
    training = recipe.training
    if training.max_steps is not None:
        return float(training.max_steps * training.batch_size * training.grad_accumulation_steps)
    return len(catalogue.split("train")) * training.epochs
