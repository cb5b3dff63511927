"""The settings of the training that made an adapter: beside its weights, or in the folder above its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.adapter_files import SETTINGS_FILE, training_folder
from mlx_phi3v.documents import read_json
from mlx_phi3v.errors import UserError

# Where a training ran and how it was reported, not what was trained.
SILENT = (
    "written_by", "output", "resume", "json", "steps_per_report", "feature_cache", "feature_cache_gb", "memory_limit",
    "grad_checkpoint", "compile", "save_every", "loader_threads", "mlx_adapter", "rank_timeout", "upload_repo", "public",
    "report_to", "project", "run_name", "report_rows", "report_checkpoints",
)  # fmt: skip
_PATHS = ("data", "model", "init_adapter")
# Settings that earlier versions did not have, and how they trained.
_BEFORE = {"reduce_dtype": "float32"}


def read_training_settings(adapter: Path) -> dict[str, Any] | None:
    """The settings of the training that made the adapter in this folder; None where they are not there or not sound."""
    folder = training_folder(adapter)
    if folder is None:
        return None
    try:
        settings = read_json(folder / SETTINGS_FILE, "training settings")
    except (UserError, OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def recorded_settings(adapter: Path) -> dict[str, Any] | None:
    """What a run's manifest records of them: what was trained, and with which seed."""
    settings = read_training_settings(adapter)
    return None if settings is None else {name: value for name, value in settings.items() if name not in SILENT}


def seed_of(settings: Mapping[str, Any]) -> int | None:
    """The training's seed; None where it is not recorded."""
    seed = settings.get("seed")
    return seed if type(seed) is int else None


def setting_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, in a, in b) of every setting in which two trainings differ, the seed aside. Of paths the last part counts: one
    catalogue may be in two places."""
    names = [name for name in {**a, **b} if name not in (*SILENT, "seed")]
    pairs = [(name, *(side.get(name, _BEFORE.get(name)) for side in (a, b))) for name in names]
    return [(name, x, y) for name, x, y in pairs if _plain(name, x) != _plain(name, y)]


def _plain(name: str, value: Any) -> Any:
    return value.rstrip("/").rpartition("/")[2] if name in _PATHS and isinstance(value, str) else value
