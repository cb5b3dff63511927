"""The names of an adapter's tensors, as the tools that wrote it spell them -> PEFT's, of a Phi-3-V as it is published."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .adapter_layout import PREFIX, SEPARATORS
from .checkpoint.headers import TensorInfo
from .checkpoint.layout import expected_tensors, is_unused
from .config import ModelArgs
from .documents import plain
from .errors import UserError

# What wrapping a model puts before its own names: peft, data parallelism, torch.compile, other classes around the model.
_WRAPPERS = {"base_model", "model", "module", "_orig_mod", "language_model"}
_NAMED = re.compile(r"\.(lora_[AB])\.(?!weight$)[^.]+\.weight$")  # lora_A.default.weight
_SAVED = re.compile(r"\.modules_to_save\.(?:[^.]+\.)?(weight|bias)$")
_MLX = re.compile(r"\.lora_([ab])$")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, and whether it is stored as the transpose of PEFT's."""

    info: TensorInfo
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in PEFT's layout."""
        return self.info.shape[::-1] if self.transposed else self.info.shape


def model_modules(config: ModelArgs) -> frozenset[str]:
    """The modules of a model that hold tensors, by their published names; the separators are modules that hold a `weight`."""
    return frozenset(name if name.endswith(SEPARATORS) else name.rpartition(".")[0] for name in expected_tensors(config))


def peft_keys(infos: dict[str, TensorInfo], config: ModelArgs, file: Path) -> dict[str, StoredTensor]:
    """An adapter's tensors by PEFT's keys; without those of modules that the model never reads.

    Undone are: other wrappers before the names, or none; the adapter's name inside (`lora_A.default.weight`,
    `modules_to_save.default.weight`); mlx's `lora_a` and `lora_b`, which are transposed. A name that belongs to no module of
    the model stays, for the error that lists it. Raises UserError where two tensors have one meaning.
    """
    modules = model_modules(config)
    found: dict[str, StoredTensor] = {}
    came_from: dict[str, str] = {}
    for name, info in infos.items():
        if ".original_module." in name:  # peft's copy of the base model's own
            continue
        mlx = _MLX.search(name)
        spelt = _MLX.sub(lambda part: f".lora_{part[1].upper()}.weight", name) if mlx else name
        spelt = _SAVED.sub(r".\1", _NAMED.sub(r".\1.weight", spelt))
        key = PREFIX + _without_wrappers(spelt, modules)
        if key in found:
            raise UserError(
                f"{file} has two tensors of one meaning, {plain(came_from[key])} and {plain(name)}; save one adapter alone"
            )
        if not is_unused(key.removeprefix(PREFIX), config):
            found[key], came_from[key] = StoredTensor(info, transposed=bool(mlx)), name
    return found


def _without_wrappers(name: str, modules: Iterable[str]) -> str:
    parts = name.split(".")
    end = len(parts) - (2 if parts[-2:-1] in (["lora_A"], ["lora_B"]) else 1)
    for start in range(end):
        if ".".join(parts[start:end]) in modules:
            return ".".join(parts[start:])
        if parts[start] not in _WRAPPERS:
            break
    return name.removeprefix(PREFIX)
