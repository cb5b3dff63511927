"""Start a training from an existing adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..adapters import GROUPS, AdapterArgs, adapter_shapes, load_adapter, resolve_adapter
from ..config import ModelArgs
from ..errors import UserError
from ..progress import note
from ..trained_task import TrainedTask
from .checkpoints import Checkpoints
from .train_config import TrainConfig

Config = TypeVar("Config", bound=TrainConfig)


def load_init_adapter(config: Config, model: ModelArgs, fingerprint: str) -> tuple[Config, AdapterArgs, dict[str, np.ndarray]]:
    """The adapter of --init-adapter: the settings with its rank, alpha and targets, its configuration, its tensors.

    fingerprint: the base model's. --lora-dropout stays the run's own. Raises UserError where the adapter cannot be
    loaded on this base (see `adapters.load_adapter`) or a setting contradicts it.
    """
    path = config.init_adapter
    assert path is not None
    try:
        folder = resolve_adapter(path)
    except UserError as error:
        raise UserError(str(error).replace("--adapter", "--init-adapter", 1)) from None
    adapter, tensors = load_adapter(folder, model, fingerprint)
    own: dict[str, Any] = {"r": adapter.r, "lora_alpha": float(adapter.lora_alpha), **trained_groups(adapter, model)}
    for name, value in own.items():
        asked = getattr(config, name)
        if asked is not None and asked != value:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {asked} contradicts --init-adapter {path}, whose {name} is {value}; leave {flag} out")
    adapter = replace(adapter, lora_dropout=config.lora_dropout, base_model_name_or_path=config.model)
    return replace(config, **own), adapter, tensors


def choose_num_crops(config: TrainConfig, model: ModelArgs, *, resumed: bool = False) -> int:
    """Most crops a photo is cut into: as asked for, else as the first adapter was trained, else the model's own number.

    resumed: the run has begun, and its last checkpoint holds its first settings. A differing flag is reported in one line.
    """
    carried = (
        _task_of(str(Checkpoints(config.output).newest()) if resumed else config.init_adapter) if config.init_adapter else None
    )
    if carried and config.num_crops not in (None, carried.num_crops):
        note(f"--num-crops is {config.num_crops}; {config.init_adapter} was trained with {carried.num_crops}")
    return config.num_crops or (carried.num_crops if carried else model.num_crops)


def _task_of(path: str) -> TrainedTask | None:
    try:
        folder = resolve_adapter(path)
    except UserError:
        return None  # `load_init_adapter` raises the error that names the cause
    return TrainedTask.load(folder)


def trained_groups(adapter: AdapterArgs, model: ModelArgs) -> dict[str, str]:
    """The value of each switch (`language`, `vision`, ...) for this adapter; lora if any module of the group has it."""
    shapes = adapter_shapes(model, adapter)

    def any_of(modules: list[str], endings: tuple[str, ...]) -> bool:
        return any(module.endswith(tuple("." + ending for ending in endings)) or module in endings for module in modules)

    saved = [name.rpartition(".")[0] for name in shapes.saved]
    return {
        name: "lora" if any_of(list(shapes.lora), group) else "full" if any_of(saved, group) else "off"
        for name, group in GROUPS.items()
    }
