"""The parts of mlx-vlm that are used here (LoRA layers, KV caches), without the rest of it.

`import mlx_vlm` imports transformers and, where it is installed, torch: five seconds, and against the rule that the
MLX side never loads torch. So the few files needed are loaded under a package of their own, bare of `__init__`s.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_ALIAS = "_mlx_vlm_parts"
_PACKAGES = ("", ".models", ".trainer", ".trainer.peft")


def _part(name: str) -> Any:
    spec = importlib.util.find_spec("mlx_vlm")  # finds the package without running it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("mlx-vlm is not installed: pip install mlx-vlm")
    root = Path(next(iter(spec.submodule_search_locations)))
    for package in _PACKAGES:
        if _ALIAS + package not in sys.modules:
            module = ModuleType(_ALIAS + package)
            module.__path__ = [str(root.joinpath(*package.strip(".").split(".")))] if package else [str(root)]
            sys.modules[_ALIAS + package] = module
    return importlib.import_module(f"{_ALIAS}.{name}")


LoRALinear: Any = _part("trainer.peft.lora_layers").LoRALinear
BatchKVCache: Any = _part("models.cache").BatchKVCache
