"""A recipe: the settings of a training as a YAML file, as the jobs that run several commands read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_phi3v.cli import build, own_keys, read_yaml
from mlx_phi3v.ranges import short
from mlx_phi3v.training.train_config import TrainConfig, as_json


@dataclass(frozen=True)
class Recipe:
    """The settings in `path`, or the defaults of a training where that is None. output: where the trainings go."""

    path: Path | None
    output: Path

    @cached_property
    def values(self) -> dict[str, Any]:
        """The recipe by our own names of the settings. Raises UserError for a file that holds none."""
        if self.path is None:
            return {}
        where = f"--recipe {self.path}"
        return own_keys(read_yaml(self.path, where), TrainConfig, "train", where)

    @cached_property
    def training(self) -> TrainConfig:
        """The recipe as the settings of a training. Raises UserError, naming the recipe, for one that is wrong."""
        own = {"data": self.output, "output": self.output / "adapter"}  # the job gives its own
        return build(TrainConfig, self.values | own, f"--recipe {self.path}")

    @property
    def tower_frozen(self) -> bool:
        """Whether nothing on the image side is trained; only then may training use cached features."""
        return bool(self.values.get("vision") == self.values.get("projector") == "off" == self.values.get("separators", "off"))

    def record(self) -> dict[str, Any]:
        """All settings that decide the numbers of a training, as JSON."""
        from mlx_phi3v.training.resume import FREE  # with numpy: the flags alone need none of it

        values = as_json(self.training.with_lora_defaults())
        return {name: value for name, value in values.items() if name not in FREE}


def recipe_changes(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of a recipe; a setting that the version which began did not have is no difference."""
    return [
        f"{name} of --recipe was {short(began[name])} and is now {short(value)}"
        for name, value in now.items()
        if began.get(name, value) != value
    ]
