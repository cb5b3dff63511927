"""PEFT's `adapter_config.json`, read and written: the part of it that is supported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from .adapter_layout import AdapterArgs
from .adapter_patterns import Patterns
from .documents import check_shape, read_json, shown
from .errors import UserError

CONFIG_FILE = "adapter_config.json"

_Names = list[str]
_Layer = Annotated[int, msgspec.Meta(ge=0, le=4096)]
_Rank = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
_Alpha = Annotated[float, msgspec.Meta(gt=0, le=1e6)]  # 0 would leave the adapter out


class LoraShape(msgspec.Struct, kw_only=True):
    """`adapter_config.json`: the entries that are read."""

    r: _Rank
    lora_alpha: _Alpha
    lora_dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    target_modules: str | _Names | None = None
    exclude_modules: str | _Names | None = None
    modules_to_save: _Names | None = None
    layers_to_transform: _Layer | list[_Layer] | None = None
    layers_pattern: str | _Names | None = None
    rank_pattern: Annotated[dict[str, _Rank], msgspec.Meta(max_length=4096)] | None = None
    alpha_pattern: Annotated[dict[str, _Alpha], msgspec.Meta(max_length=4096)] | None = None
    use_rslora: bool | None = None
    init_lora_weights: bool | str | None = None
    base_model_name_or_path: str | None = None


# Entries that say nothing about the numbers of a finished adapter, whatever they hold.
_HARMLESS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "revision", "inference_mode", "megatron_core",
    "qalora_group_size", "runtime_config", "eva_config", "ensure_weight_tying", "loftq_config", "corda_config",
    "lora_ga_config",
}  # fmt: skip
_UNUSED: dict[str, tuple[Any, ...]] = {"bias": ("none",)}  # entries whose value for "not used" is not false or empty
# Ways to start an adapter that leave the base model as it is.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def read_adapter_config(folder: Path) -> AdapterArgs:
    """Read PEFT's `adapter_config.json`; without the ranks and alphas of single modules, see `peft_config`."""
    path = folder / CONFIG_FILE
    return peft_config(read_json(path, "adapter configuration"), path)[0]


def peft_config(raw: Any, path: Path) -> tuple[AdapterArgs, Patterns]:
    """What PEFT's configuration says, and the ranks and alphas of single modules.

    Raises UserError if it is not plain LoRA: for a value of the wrong kind, and for an entry that is not understood and is
    in use, as peft's newer kinds of LoRA are.
    """
    if isinstance(raw, dict) and raw.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{path}: peft_type is {shown(raw['peft_type'])}; only LoRA is supported")
    if not isinstance(raw, dict) or "r" not in raw or "lora_alpha" not in raw:
        raise UserError(f"{path} is not a LoRA configuration: it has no r or no lora_alpha; copy the adapter again")
    read = check_shape(raw, LoraShape, path)
    for key in sorted(set(raw) - set(LoraShape.__struct_fields__) - _HARMLESS):
        value = raw[key]
        if value and value not in _UNUSED.get(key, ()):
            raise UserError(f"{path}: {key} = {shown(value)} is not supported; use an adapter without it")
    if read.init_lora_weights not in _PLAIN_STARTS:
        raise UserError(
            f"{path}: init_lora_weights = {shown(read.init_lora_weights)} may change the base model too; save the adapter with "
            "peft's path_initial_model_for_weight_conversion, which turns it into plain LoRA"
        )
    return adapter_args(read, path), Patterns(read.rank_pattern or {}, read.alpha_pattern or {})


def adapter_args(read: LoraShape, path: Path) -> AdapterArgs:
    """The checked entries as `AdapterArgs`. Raises UserError for two that exclude each other."""
    layers = read.layers_to_transform
    patterns = (read.layers_pattern,) if isinstance(read.layers_pattern, str) else tuple(read.layers_pattern or ())
    for pattern in patterns:
        if not re.fullmatch(r"\w+", pattern):
            raise UserError(f"{path}: layers_pattern is {shown(read.layers_pattern)}; it must be names such as 'layers'")
    adapter = AdapterArgs(
        r=read.r,
        lora_alpha=read.lora_alpha,
        lora_dropout=read.lora_dropout or 0.0,
        target_modules=_names(read.target_modules),
        modules_to_save=tuple(read.modules_to_save or ()),
        use_rslora=bool(read.use_rslora),
        base_model_name_or_path=read.base_model_name_or_path or "",
        exclude_modules=_names(read.exclude_modules),
        layers_to_transform=(layers,) if isinstance(layers, int) else tuple(layers) if layers else None,
        layers_pattern=patterns,
    )
    if adapter.layers_to_transform is not None and isinstance(adapter.target_modules, str):
        raise UserError(f"{path}: layers_to_transform needs a list of target_modules; put the layers into the expression")
    return adapter


def _names(value: str | list[str] | None) -> tuple[str, ...] | str:
    return value if isinstance(value, str) else tuple(sorted(value or ()))


def config_values(adapter: AdapterArgs) -> dict[str, Any]:
    """The JSON form, as `peft.PeftModel` reads it."""
    values: dict[str, Any] = {
        "peft_type": "LORA", "task_type": None, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "use_dora": False, **msgspec.to_builtins(adapter),
    }  # fmt: skip
    for key in ("modules_to_save", "exclude_modules", "layers_pattern"):  # as peft writes them
        values[key] = values[key] or None
    return values


def also_saving(adapter: AdapterArgs, modules: Iterable[str]) -> AdapterArgs:
    """The same with `modules` trained in full."""
    return replace(adapter, modules_to_save=(*adapter.modules_to_save, *modules))
