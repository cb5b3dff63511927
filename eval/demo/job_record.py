"""The settings an OUTPUT was begun with: parts that were made with others never come into one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mlx_phi3v.checkpoint.fingerprint import SOURCE_FILE, base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.documents import plain, read_as
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import content_of, write_json

from .recipe import recipe_changes
from .seed_sets import fewer_seeds
from .settings import DemoConfig

RECORD = "job.json"
CATALOGUE_FILE = "catalogue.json"


class JobRecord(msgspec.Struct):
    """`job.json`: all that decides the job's numbers. What an output of an earlier version does not say is unset."""

    products: int | msgspec.UnsetType = msgspec.UNSET
    test: int | msgspec.UnsetType = msgspec.UNSET
    seed: int | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    weights: str | msgspec.UnsetType = msgspec.UNSET  # the model's fingerprint
    recipe: dict[str, Any] = {}
    seeds: int = 0  # trainings on each backend
    looked: int = 0  # how many of them were compared


class _Drawn(msgspec.Struct):
    products: int | msgspec.UnsetType = msgspec.UNSET
    test: int | msgspec.UnsetType = msgspec.UNSET
    seed: int | msgspec.UnsetType = msgspec.UNSET


class _Catalogue(msgspec.Struct):
    settings: _Drawn


class _Converted(msgspec.Struct):
    source: str | msgspec.UnsetType = msgspec.UNSET


def record_of(config: DemoConfig) -> JobRecord:
    """The record of a job. Raises UserError where its model or recipe cannot be read."""
    weights = base_fingerprint(resolve_model(config.model))
    recipe = config.training.record()
    return JobRecord(config.products, config.test, config.seed, config.model, weights, recipe, config.seeds or 0)


def begin(output: Path, asked: JobRecord) -> int:
    """Store the record in `output`, where the job begins, and return how many seeds were compared before.

    More seeds go on from those that are there; none asked for leaves them as they are.

    Raises UserError, naming every setting that differs, where `output` was begun with others, or with more seeds, or where no
    job wrote what it holds.
    """
    path = output / RECORD
    _require_ours(output)
    began = read_as(path, "record of the job", JobRecord) if path.exists() else _of_earlier_version(output)
    changes = _changes(began, asked)
    if changes:
        raise UserError(f"{output} was begun with other settings: {'; '.join(changes)}; give the old ones or another --output")
    seeds = max(began.seeds, asked.seeds)
    if not path.exists() or seeds > began.seeds:
        # What an earlier version's record lacks is filled in: the settings are those that it was begun with.
        write_json(path, msgspec.to_builtins(msgspec.structs.replace(asked, seeds=seeds, looked=began.looked)))
    return began.looked


def _require_ours(output: Path) -> None:
    names = content_of(output)
    ours = (RECORD, f"catalogue/{CATALOGUE_FILE}", f"model/{SOURCE_FILE}")  # the last two: of an earlier version
    if names and not any((output / name).exists() for name in ours):
        raise UserError(
            f"{output} holds what this job did not write ({plain(names[0])}); give --output a new or an empty folder"
        )


def _changes(began: JobRecord, asked: JobRecord) -> list[str]:
    changes = []
    for name in ("products", "test", "seed"):
        was, now = getattr(began, name), getattr(asked, name)
        if was not in (now, msgspec.UNSET):
            changes.append(f"--{name} was {was} and is now {now}")
    if began.weights not in (asked.weights, msgspec.UNSET):
        if began.model == asked.model:
            changes.append(f"the weights of --model {asked.model} are not what they were")
        else:
            changes.append(f"--model was {began.model} and is now {asked.model}")
    changes += fewer_seeds(began.seeds, asked.seeds)
    return changes + recipe_changes(began.recipe, asked.recipe)


def _of_earlier_version(output: Path) -> JobRecord:
    """What the catalogue and the converted model say, where the job was begun without a record or not at all."""
    record = JobRecord()
    catalogue, origin = output / "catalogue" / CATALOGUE_FILE, output / "model" / SOURCE_FILE
    if catalogue.exists():
        drawn = read_as(catalogue, "catalogue", _Catalogue).settings
        record.products, record.test, record.seed = drawn.products, drawn.test, drawn.seed
    if origin.exists():
        record.model = read_as(origin, "conversion record", _Converted).source
        record.weights = base_fingerprint(origin.parent)
    return record
