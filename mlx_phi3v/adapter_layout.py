"""What an adapter trains: its targets, and the shapes of its tensors for a model, by PEFT's rules and names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .checkpoint.layout import expected_tensors, is_unused
from .config import ModelArgs
from .errors import UserError
from .name_patterns import fully_matching

PREFIX = "base_model.model."

# Microsoft's fine-tuning targets for Phi-3-vision, by group.
LANGUAGE = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
VISION = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PROJECTOR = ("img_projection.0", "img_projection.2")
SEPARATORS = ("glb_GN", "sub_GN")
LM_HEAD = ("lm_head",)
GROUPS = {"language": LANGUAGE, "vision": VISION, "projector": PROJECTOR, "separators": SEPARATORS, "lm_head": LM_HEAD}


@dataclass(frozen=True)
class AdapterArgs:
    """Which modules are trained, and how: the part of PEFT's LoraConfig that is supported.

    layers_to_transform: numbers of the only layers that get LoRA; None: all. layers_pattern: the names of the lists that
    these numbers count in; none: of any list.
    """

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = (*LANGUAGE, *VISION, *PROJECTOR)
    modules_to_save: tuple[str, ...] = ()
    use_rslora: bool = False
    base_model_name_or_path: str = ""
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Factor on the low-rank product: alpha / r (alpha / sqrt(r) with rank-stabilised LoRA)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def targets(self, modules: Iterable[str]) -> frozenset[str]:
        """Which of the linear layers `modules` get LoRA, by PEFT's rules.

        Raises UserError for a regular expression that is none, or takes too long.
        """
        names = tuple(modules)
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == "all-linear":
                chosen = frozenset(name for name in names if name != "lm_head")
            else:
                chosen = fully_matching(self.target_modules, names, "target_modules")
        else:
            chosen = frozenset(name for name in names if ends_with(name, self.target_modules) and self._in_layer(name))
        if isinstance(self.exclude_modules, str):
            return chosen - fully_matching(self.exclude_modules, names, "exclude_modules")
        return frozenset(name for name in chosen if not ends_with(name, self.exclude_modules))

    def _in_layer(self, module: str) -> bool:
        """Whether the module is in one of `layers_to_transform`; a target given by its whole name always is."""
        if not self.layers_to_transform or module in self.target_modules:
            return True
        for pattern in self.layers_pattern or (r"[^.]*",):
            found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module)
            if found:
                return int(found[1]) in self.layers_to_transform
        return False

    def trains_image_side(self, config: ModelArgs) -> bool:
        """Whether the image side is trained: tower, projector or separators."""
        return any(name.startswith("model.vision_embed_tokens.") for name in adapter_shapes(config, self).modules)


def ends_with(module: str, endings: tuple[str, ...]) -> bool:
    """PEFT's rule for names in a list: the whole name, or its end from a dot on."""
    return any(module == ending or module.endswith("." + ending) for ending in endings)


@dataclass(frozen=True)
class AdapterShapes:
    """Shapes of an adapter's tensors by key, and the names of the modules they change."""

    lora: dict[str, tuple[int, int]]
    saved: dict[str, tuple[int, ...]]
    tensors: dict[str, tuple[int, ...]]

    @property
    def modules(self) -> list[str]:
        """All changed modules."""
        return [*self.lora, *(name.rpartition(".")[0] for name in self.saved)]

    def any_in(self, part: str) -> bool:
        """Whether a module of a part of the model is changed; `part` is what the names of its modules begin with."""
        return any(name.startswith(part) for name in self.modules)


def saved_key(tensor: str) -> str:
    """PEFT's key of a fully trained tensor. The separators are bare parameters; as modules they hold a `weight`."""
    return PREFIX + (tensor + ".weight" if tensor.endswith(SEPARATORS) else tensor)


def adapter_shapes(config: ModelArgs, adapter: AdapterArgs) -> AdapterShapes:
    """The tensors of an adapter of this configuration for this model.

    Raises UserError if no module matches, or one of `modules_to_save` is none of the model's.
    """
    linear: dict[str, tuple[int, int]] = {}
    saved: dict[str, tuple[int, ...]] = {}
    for name, shape in expected_tensors(config).items():
        if is_unused(name, config):
            continue
        module = name.rpartition(".")[0]
        separator = name.endswith(SEPARATORS)
        if any(ends_with(part, adapter.modules_to_save) for part in _with_parents(name if separator else module)):
            saved[name + ".weight" if separator else name] = shape
        elif _is_linear(name, shape):
            linear[module] = (shape[0], shape[1])
    for saving in adapter.modules_to_save:
        if not any(ends_with(part, (saving,)) for name in saved for part in _with_parents(name.removesuffix(".weight"))):
            raise UserError(f"modules_to_save names {saving!r}, which is no module of the model; remove it")
    targets = adapter.targets(linear)
    lora = {module: shape for module, shape in linear.items() if module in targets}
    if not lora and not saved:
        raise UserError(f"no module of the model matches target_modules {adapter.target_modules!r}; nothing would be trained")
    tensors: dict[str, tuple[int, ...]] = {}
    for module, (rows, columns) in lora.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = (adapter.r, columns)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = (rows, adapter.r)
    tensors |= {PREFIX + name: shape for name, shape in saved.items()}
    return AdapterShapes(lora, saved, tensors)


def _with_parents(module: str) -> list[str]:
    """The module and the modules that hold it: peft saves these whole too."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a linear layer; an embedding's weight is a matrix too."""
    module, _, kind = name.rpartition(".")
    return kind == "weight" and len(shape) == 2 and "embed" not in module.rpartition(".")[2]
