"""Ranks and alphas of single modules (`rank_pattern`, `alpha_pattern`), made one rank and one alpha.

The update scale * B A of a module is the same with zeros added to A and B, and with a factor moved from the scale into B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .adapter_layout import PREFIX, AdapterArgs
from .name_patterns import fully_matching


@dataclass(frozen=True)
class Patterns:
    """Expression -> rank, or alpha, of the modules whose name it matches, whole or from a dot on; the first one counts."""

    rank: Mapping[str, int] = field(default_factory=dict)
    alpha: Mapping[str, float] = field(default_factory=dict)

    def ranks(self, modules: tuple[str, ...], adapter: AdapterArgs) -> dict[str, int]:
        """The rank of each module. Raises UserError for an expression that is none, or takes too long."""
        return {module: int(value) for module, value in _chosen(self.rank, modules, adapter.r, "rank_pattern").items()}

    def alphas(self, modules: tuple[str, ...], adapter: AdapterArgs) -> dict[str, float]:
        """The alpha of each module. Raises UserError as `ranks`."""
        return _chosen(self.alpha, modules, adapter.lora_alpha, "alpha_pattern")


def _chosen(pattern: Mapping[str, float], modules: tuple[str, ...], default: float, key: str) -> dict[str, float]:
    values = dict.fromkeys(modules, default)
    for expression, value in reversed(list(pattern.items())):
        # Most are plain names; an expression is matched in a process of its own.
        if re.fullmatch(r"[\w.]+", expression):
            matching = frozenset(name for name in modules if name == expression or name.endswith("." + expression))
        else:
            matching = fully_matching(rf"(?:.*\.)?(?:{expression})", modules, key)
        values |= dict.fromkeys(matching, value)
    return values


def uniform(
    adapter: AdapterArgs, tensors: dict[str, np.ndarray], patterns: Patterns
) -> tuple[AdapterArgs, dict[str, np.ndarray]]:
    """The same update with one rank, the largest, and the adapter's own scale; fp32 tensors by PEFT's keys."""
    modules = tuple(key[len(PREFIX) : -len(".lora_A.weight")] for key in tensors if key.endswith(".lora_A.weight"))
    if not (patterns.rank or patterns.alpha) or not modules:
        return adapter, tensors
    # The tensors' own ranks: peft sorts its patterns as it writes them, and of two that match another may be the first then.
    ranks = {module: len(tensors[f"{PREFIX}{module}.lora_A.weight"]) for module in modules}
    root = math.sqrt if adapter.use_rslora else float
    scales = {module: alpha / root(ranks[module]) for module, alpha in patterns.alphas(modules, adapter).items()}
    most, scale = max(ranks.values()), max(scales.values(), key=abs)
    done = dict(tensors)
    for module, r in ranks.items():
        down, up = (f"{PREFIX}{module}.lora_{letter}.weight" for letter in "AB")
        done[down] = np.pad(tensors[down], ((0, most - r), (0, 0)))
        factor = np.float32(scales[module] / scale) if scale else np.float32(1)
        done[up] = np.pad(tensors[up] * factor, ((0, 0), (0, most - r)))
    return replace(adapter, r=most, lora_alpha=scale * root(most)), done
