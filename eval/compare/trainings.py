"""The trainings of two runs' adapters side by side: their settings, and their loss curves, where the folders are here.

A run names its adapter's folder. A training leaves `settings.json` and `log.jsonl` there, or above the checkpoint. They
are read only where the folder's weights are those that the run recorded: a folder may hold another training by now. Where
the folder is not here, the run's manifest has the settings; runs of earlier versions did not record them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_phi3v.adapter_files import training_folder
from mlx_phi3v.adapters import resolve_adapter, weights_path
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_file

from ..runs.run import Run
from ..runs.training_settings import SILENT, read_training_settings

_POINTS = 400  # of a loss curve
_LONGEST_LINE = 100_000  # characters of one line of a log


@dataclass(frozen=True)
class Training:
    """One side's training. Curves are (step, loss); what is not there is empty."""

    folder: str
    settings: dict[str, Any]
    loss: list[tuple[int, float]]
    val_loss: list[tuple[int, float]]


@dataclass(frozen=True)
class TrainingDifference:
    """A setting in which two trainings differ."""

    name: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.a)} | {_shown(self.b)}"


@dataclass(frozen=True)
class Trainings:
    """Both trainings. `same`: the settings in which they agree, of those that matter most."""

    a: Training
    b: Training
    differences: list[TrainingDifference]
    same: dict[str, Any]


def compare_trainings(run_a: Run, run_b: Run) -> Trainings | None:
    """Both runs' trainings; None where one of them is not here, or both are one."""
    a, b = find_training(run_a), find_training(run_b)
    hashes = [(run.manifest.get("hashes") or {}).get("adapter") for run in (run_a, run_b)]
    if a is None or b is None or a == b or (hashes[0] and hashes[0] == hashes[1]):
        return None
    names = [name for name in {**a.settings, **b.settings} if name not in SILENT]
    pairs = [(name, a.settings.get(name), b.settings.get(name)) for name in names]
    differences = [TrainingDifference(name, left, right) for name, left, right in pairs if left != right]
    shown = ("data", "model", "learning_rate", "total_steps", "batch_size", "seed")
    same = {name: left for name, left, right in pairs if left == right and name in shown}
    return Trainings(a, b, differences, same)


def find_training(run: Run) -> Training | None:
    """The training of a run's adapter: from its folder, else as the run recorded it, then without loss curves."""
    return _of_folder(run) or _as_recorded(run)


def _as_recorded(run: Run) -> Training | None:
    settings = run.manifest.get("training")
    return Training(str(run.path), settings, [], []) if settings else None


def _of_folder(run: Run) -> Training | None:
    """The training, where its folder is here and holds the weights that the run recorded."""
    adapter, recorded = run.manifest.get("adapter"), (run.manifest.get("hashes") or {}).get("adapter")
    if not isinstance(adapter, str) or not adapter or not recorded:
        return None
    try:
        folder = resolve_adapter(adapter, hub=False)
        if sha256_file(weights_path(folder)) != recorded:
            return None
    except (UserError, OSError, ValueError):
        return None
    root, settings = training_folder(folder), read_training_settings(folder)
    if root is None or settings is None:
        return None
    log = list(_log(root / "log.jsonl"))
    return Training(str(root.resolve()), settings, _curve(log, "loss"), _curve(log, "val_loss"))


def _log(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a training's log that are records; none where there is no log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            while line := file.readline(_LONGEST_LINE):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return


def _curve(log: list[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of a log's key, thinned; a step that was done twice, after a resume, counts once, the last time."""
    found: dict[int, float] = {}
    for record in log:
        step, value = record.get("step"), record.get(key)
        if type(step) is int and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[step] = float(value)
    points = sorted(found.items())
    every = max(1, math.ceil(len(points) / _POINTS))
    return list(itertools.islice(points, 0, None, every))


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
