"""Start a training from an existing adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..adapters import AdapterConfig, adapter_shapes, load_adapter, resolve_adapter
from ..config import ModelConfig
from ..errors import UserError
from .train_config import GROUPS, TrainConfig

Config = TypeVar("Config", bound=TrainConfig)


def load_init_adapter(
    config: Config, model: ModelConfig, fingerprint: str
) -> tuple[Config, AdapterConfig, dict[str, np.ndarray]]:
    """The adapter of --init-adapter: the settings with its rank, alpha and targets, its configuration, its tensors.

    fingerprint: the base model's. --lora-dropout stays the run's own. Raises UserError where the adapter cannot be
    loaded on this base (see `adapters.load_adapter`) or a setting contradicts it.
    """
    path = config.init_adapter
    assert path is not None
    try:
        folder = resolve_adapter(path)
    except UserError:
        raise UserError(
            f"--init-adapter {path} is neither an adapter nor a training run (it has no adapter_config.json); give one"
        ) from None
    adapter, tensors = load_adapter(folder, model, fingerprint)
    own: dict[str, Any] = {"r": adapter.r, "lora_alpha": float(adapter.lora_alpha), **trained_groups(adapter, model)}
    for name, value in own.items():
        asked = getattr(config, name)
        if asked is not None and asked != value:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {asked} contradicts --init-adapter {path}, whose {name} is {value}; leave {flag} out")
    adapter = replace(adapter, lora_dropout=config.lora_dropout, base_model_name_or_path=config.model)
    return replace(config, **own), adapter, tensors


def trained_groups(adapter: AdapterConfig, model: ModelConfig) -> dict[str, str]:
    """The value of each switch (`language`, `vision`, ...) for this adapter; lora if any module of the group has it."""
    shapes = adapter_shapes(model, adapter)

    def any_of(modules: list[str], endings: tuple[str, ...]) -> bool:
        return any(module.endswith(tuple("." + ending for ending in endings)) or module in endings for module in modules)

    saved = [name.rpartition(".")[0] for name in shapes.saved]
    return {
        name: "lora" if any_of(list(shapes.lora), group) else "full" if any_of(saved, group) else "off"
        for name, group in GROUPS.items()
    }
