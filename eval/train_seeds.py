"""Train with several seeds on MLX and on torch, answer the test split with each adapter, and compare the trainings.

    python -m eval.train_seeds --data CATALOGUE --output runs/seeds --seeds 5 --model M --mlx-model M4
    python -m eval.train_seeds --data CATALOGUE --output runs/seeds --seeds 5 --model M --backends torch

Two trainings differ by their seed, also with the same code. So whether a training on one backend is as good as one on the
other is asked of several on each side; with the same seed both draw the same batches. How many are needed, and how many test
rows: python -m eval.plan.

Give the same command again to resume after a kill, at any point. A larger --seeds goes on from the trainings that are there.
With one backend nothing is compared: give the same command with the other on another machine, then compare both sides' runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from mlx_phi3v.backend_names import BACKENDS
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.cli import option, parse
from mlx_phi3v.documents import read_as
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.files import folder_in_place, write_json
from mlx_phi3v.progress import result
from mlx_phi3v.ranges import MAX_ROWS

from .demo.jobs import Display
from .demo.recipe import Recipe, recipe_changes
from .demo.seed_flags import MAX_SEEDS, same_command
from .demo.seed_sets import SeedSets, fewer_seeds, note_look, train_sets
from .demo.seeds_report import report_sets

RECORD = "seeds.json"


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
        recipe = Recipe(self.recipe, self.output)
        rows = len(Catalogue(self.data).split(self.split))
        limit = () if self.limit is None else ("--limit", str(self.limit))
        return SeedSets(
            output=self.output, data=self.data, models={backend: self.model_for(backend) for backend in self.backends},
            seeds=self.seeds, recipe=recipe, at_once=self.at_once, answer_flags=("--split", self.split, *limit),
            training_work=_training_work(self, recipe), answer_work=float(min(rows, self.limit or rows)),
        )  # fmt: skip


def _training_work(config: SeedsConfig, recipe: Recipe) -> float:
    """Rows that a training draws."""
    training = recipe.training
    if training.max_steps is not None:
        return float(training.max_steps * training.batch_size * training.grad_accumulation_steps)
    return len(Catalogue(config.data).split("train")) * training.epochs


class SeedsRecord(msgspec.Struct):
    """`seeds.json`: all that decides the trainings and their answers. models: the fingerprint of each backend's weights."""

    catalogue: str
    split: str
    limit: int | None
    models: dict[str, str]
    recipe: dict[str, Any]
    seeds: int
    looked: int = 0  # how many of them were compared


def begin(config: SeedsConfig) -> int:
    """Store the record where the trainings begin, and return how many seeds were compared before.

    Raises UserError, naming what differs, where OUTPUT was begun with other settings, or with more seeds.
    """
    path = config.output / RECORD
    now = SeedsRecord(
        Catalogue(config.data).fingerprint, config.split, config.limit,
        {backend: base_fingerprint(resolve_model(model)) for backend, model in config.sets.models.items()},
        config.sets.recipe.record(), config.seeds,
    )  # fmt: skip
    began = read_as(path, "record of the trainings", SeedsRecord) if path.exists() else None
    if began is None:
        write_json(path, msgspec.to_builtins(now))
        return 0
    changes = _changes(began, now)
    if changes:
        raise UserError(
            f"{config.output} was begun with other settings: {'; '.join(changes)}; give the old ones or another --output"
        )
    write_json(path, msgspec.to_builtins(msgspec.structs.replace(now, models=began.models | now.models, looked=began.looked)))
    return began.looked


def _changes(began: SeedsRecord, now: SeedsRecord) -> list[str]:
    changes = [] if began.catalogue == now.catalogue else ["--data is another catalogue"]
    for name in ("split", "limit"):
        was, given = getattr(began, name), getattr(now, name)
        if was != given:
            changes.append(f"--{name} was {was} and is now {given}")
    for backend, weights in now.models.items():
        if began.models.get(backend, weights) != weights:
            changes.append(f"the model of {backend} has other weights")
    return changes + recipe_changes(began.recipe, now.recipe) + list(fewer_seeds(began.seeds, now.seeds))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(SeedsConfig, "python -m eval.train_seeds", __doc__ or "", argv)
    console = Console(stderr=config.json)
    display = Display(config.sets.work, console, config.json)
    with folder_in_place(config.output):
        before = begin(config)
        with display.bars:
            train_sets(config.sets, display)
        page = config.output / "seeds.html"
        told = report_sets(config.sets, console, page, before=before, command=config.command, as_json=config.json)
        note_look(config.output / RECORD, told)
    result(config.json, event="done", output=str(config.output), **told)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
