"""Sets of trainings, one on each backend for every seed, with their answers: what claim (b), as good a training, rests on.

With equal seeds the backends draw the same batches, so trainings are paired by seed. Each training and each run is a command of
its own that goes on where it was stopped; what is finished is not done again.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_phi3v.commands import child_command, child_environment
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json, write_json

from .jobs import Display, Job, end_processes, run_chains, unfinished
from .recipe import Recipe

REFERENCE = ("torch", "mlx")  # A and B, where both are there: differences are MLX minus torch


@dataclass(frozen=True)
class SeedSets:
    """The trainings and where they go. models: the checkpoint of each backend that trains here, the backends in order."""

    output: Path
    data: Path
    models: Mapping[str, str]
    seeds: int
    recipe: Recipe
    at_once: int = 1
    answer_flags: tuple[str, ...] = ()
    train_flags: tuple[str, ...] = ()
    training_work: float = 1.0  # of a training, for the bar
    answer_work: float = 0.0

    @property
    def first(self) -> int:
        """The first seed: the recipe's."""
        return self.recipe.training.seed

    @property
    def all_seeds(self) -> range:
        """The seeds."""
        return range(self.first, self.first + self.seeds)

    def adapter(self, backend: str, seed: int) -> Path:
        """The folder of a training."""
        return self.output / f"{backend}-adapter{self._suffix(seed)}"

    def run(self, backend: str, seed: int) -> Path:
        """The folder of its answers."""
        return self.output / f"{backend}-tuned{self._suffix(seed)}"

    def runs(self, backend: str) -> list[Path]:
        """The runs of a backend, by seed."""
        return [self.run(backend, seed) for seed in self.all_seeds]

    @property
    def feature_flags(self) -> list[str]:
        """Cached features for all trainings and answers, where the tower is frozen."""
        return ["--feature-cache", str(self.output / "features")] if self.recipe.tower_frozen else []

    def _suffix(self, seed: int) -> str:
        return "" if seed == self.first else f"-seed-{seed}"

    def train(self, backend: str, seed: int) -> Job:
        """The command of one training."""
        arguments = ["--config", str(self.recipe.path)] if self.recipe.path else []
        arguments += ["--backend", backend, "--model", self.models[backend], "--data", str(self.data), "--seed", str(seed)]
        arguments += ["--output", str(self.adapter(backend, seed)), "--resume", *self.feature_flags]
        arguments += self.train_flags
        label = f"{backend} tuning" + (f", seed {seed}" if self.seeds > 1 else "")
        return Job(label, "mlx_phi3v.train", arguments, self.training_work)

    def answer(self, backend: str, seed: int) -> Job:
        """The command that answers the split with its adapter."""
        output = self.run(backend, seed)
        arguments = ["--backend", backend, "--model", self.models[backend], "--data", str(self.data), "--output", str(output)]
        arguments += ["--label", output.name, "--adapter", str(self.adapter(backend, seed))]
        arguments += [*self.answer_flags, *self.feature_flags]
        return Job(f"{output.name} answering", "eval.predict", arguments, self.answer_work, run=output)

    def chains(self) -> list[list[Job]]:
        """Training and answers, seed by seed, so that pairs are finished early."""
        return [[self.train(backend, seed), self.answer(backend, seed)] for seed in self.all_seeds for backend in self.models]

    @property
    def work(self) -> float:
        """Of all chains, for the bar."""
        return len(self.models) * self.seeds * (self.training_work + self.answer_work)


def train_sets(sets: SeedSets, display: Display) -> None:
    """Run what is not finished. Raises UserError where a command fails."""
    left = unfinished(sets.chains())
    if left:
        names = " and ".join(sets.models)
        with display.stage(f"Training with {sets.seeds} seeds on {names} and answering, {len(left)} to do"):
            run_chains(left, display, at_once=sets.at_once)


def compare_command(sets: SeedSets) -> list[str]:
    """The arguments of eval.compare: torch is A, MLX is B. One pair of runs where there is one seed."""
    a, b = ([str(run) for run in sets.runs(backend)] for backend in REFERENCE)
    return [a[0], b[0]] if sets.seeds == 1 else ["--a", *a, "--b", *b]


def compare_sets(sets: SeedSets, page: Path, *, as_json: bool) -> dict[str, Any]:
    """Compare both backends' trainings, print the report and write the page.

    Returns the report's verdict and first line with `as_json`, where nothing is printed, and always its exit status.
    Raises UserError where the runs cannot be compared.
    """
    command = [*child_command("eval.compare"), *compare_command(sets), "--html", str(page)]
    command += ["--json"] if as_json else []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE if as_json else None, text=True, env=child_environment()
    )  # stderr is the user's
    try:
        printed, _ = process.communicate()
    finally:
        end_processes([process] if process.poll() is None else [])
    if process.returncode not in (0, 1, 3, 4):
        raise UserError(f"the trainings are there, but comparing them failed (exit status {process.returncode})")
    found = json.loads(printed) if as_json else {}
    return {name: found[name] for name in ("verdict", "first_line") if name in found} | {"exit_status": process.returncode}


def fewer_seeds(began: int, asked: int) -> Iterator[str]:
    """The sentence for fewer seeds than there are: which of them are compared must not be chosen afterwards."""
    if 0 < asked < began:
        yield f"--seeds was {began} and is now {asked}"


def note_look(record: Path, told: Mapping[str, Any]) -> None:
    """Store in the job's record how many seeds were compared, by what `compare_sets` tells; more of them are another look."""
    if "exit_status" in told:
        write_json(record, read_json(record, "record of the job") | {"looked": told["seeds"]})


def looked_again(looked: int, asked: int) -> str | None:
    """What to know where trainings are added to those that were compared already."""
    if not 0 < looked < asked:
        return None
    grown = f"{looked} trainings a side were compared before, now {asked}"
    return f"{grown}: another look at a growing set is a further chance of a false answer"
