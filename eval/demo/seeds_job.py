"""The job of several seeds: what it was begun with, its trainings, and what is told of them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from rich.console import Console

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.documents import read_as
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import folder_in_place, write_json
from mlx_phi3v.progress import result

from .jobs import Display
from .recipe import recipe_changes
from .seed_sets import fewer_seeds, note_look, train_sets
from .seeds_config import SeedsConfig
from .seeds_report import report_sets

RECORD = "seeds.json"


class SeedsRecord(msgspec.Struct):
    """`seeds.json`: all that decides the trainings and their answers. models: the fingerprint of each backend's weights."""

    catalogue: str
    split: str
    limit: int | None
    models: dict[str, str]
    recipe: dict[str, Any]
    seeds: Annotated[int, msgspec.Meta(ge=1)]
    looked: Annotated[int, msgspec.Meta(ge=0)] = 0  # how many of them were compared


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


def train_seeds(config: SeedsConfig) -> None:
    """Train what is missing, and compare. Raises UserError where OUTPUT was begun with other settings."""
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
