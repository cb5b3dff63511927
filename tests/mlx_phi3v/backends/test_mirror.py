"""The backends mirror each other in what the model is: the same protocol, classes, methods and attribute names.

The attribute names are the checkpoint's keys, so that weights load without a map. Where things stand is not held here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors import safe_open

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.nn as mlx_nn
from mlx.utils import tree_flatten
from torch import nn as torch_nn

from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.kv_cache import BatchCache, LayerCache
from mlx_phi3v.next_tokens import HostScores, Scores

# MLX: the patch convolution is a matrix product, in a class that torch's embeddings do not need.
ONLY_MLX = {"PatchEmbedding"}
# How a module is called is each framework's own.
CALL = {"__call__": "forward"}
# A separator is one tensor in the checkpoint and a module that holds a `weight` here.
SEPARATORS = ("glb_GN.weight", "sub_GN.weight")


def part(backend: str, name: str) -> ModuleType:
    return importlib.import_module(f"mlx_phi3v.backend_{backend}.{name}")


def classes(module: ModuleType) -> dict[str, type]:
    """Classes that a module defines."""
    return {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and kind.__module__ == module.__name__}


def methods(kind: type) -> set[str]:
    """Public methods that a class itself defines, under one name on both sides."""
    names = {name for name, value in vars(kind).items() if inspect.isfunction(value)}
    return {CALL.get(name, name) for name in names if name in CALL or not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each parameter; not its type, which is a framework's."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> dict[str, Any]:
    backends: dict[str, Any] = {name: load_backend(name, checkpoint, dtype="float32") for name in ("mlx", "torch")}
    return {name: backend.model for name, backend in backends.items()}


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_a_backend_has_every_method_and_attribute_of_the_protocol(name: str, checkpoint: Path) -> None:
    backend = load_backend(name, checkpoint)
    protocol = {key: value for key, value in vars(Backend).items() if inspect.isfunction(value) and not key.startswith("_")}
    assert len(protocol) > 15 and {"accumulate", "loss", "prefill", "decode", "keep_rows"} <= protocol.keys()
    for method, stated in protocol.items():
        assert parameters(getattr(type(backend), method)) == parameters(stated), method
    for attribute in inspect.get_annotations(Backend):
        assert getattr(backend, attribute) not in (None, ""), attribute


@pytest.mark.parametrize("file", ["model", "vision", "decoder"])
def test_a_class_of_one_side_is_on_the_other_with_the_same_methods(file: str) -> None:
    ours, theirs = (part(name, file) for name in ("mlx", "torch"))
    for name, kind in classes(ours).items():
        if name in ONLY_MLX:
            continue
        other = getattr(theirs, name)  # defined there, or transformers' under our name
        if other.__module__ == theirs.__name__:
            assert methods(kind) == methods(other), name
    assert classes(theirs).keys() <= classes(ours).keys()


def test_adapters_are_put_on_by_the_same_functions() -> None:
    ours, theirs = (part(name, "lora") for name in ("mlx", "torch"))
    assert parameters(ours.add_lora) == parameters(theirs.add_lora)
    assert [name for name, *_ in parameters(ours.set_adapter_tensors)] == ["model", "tensors"]
    assert parameters(ours.set_adapter_tensors) == parameters(theirs.set_adapter_tensors)
    # MLX is told which keys to give, peft knows them.
    assert parameters(ours.adapter_tensors)[:1] == parameters(theirs.adapter_tensors)


def test_caches_have_the_same_methods_and_fields() -> None:
    ours, theirs = (part(name, "cache").KVCache for name in ("mlx", "torch"))
    assert methods(ours) == methods(theirs) >= {"update_and_fetch", "zeros"}
    assert parameters(ours) == parameters(theirs) and {*ours.__mro__} & {*theirs.__mro__} >= {LayerCache}
    # What they remember of the rows is one class; transformers' attention calls `update`.
    ours, theirs = (part(name, "cache").Cache for name in ("mlx", "torch"))
    assert ours.__origin__ is BatchCache and issubclass(theirs, BatchCache) and methods(theirs) == {"update"}


def test_scores_have_the_methods_of_the_protocol() -> None:
    for kind in (HostScores, *(part(name, "next_tokens").DeviceScores for name in ("mlx", "torch"))):
        assert methods(kind) == methods(Scores), kind
        assert all(parameters(getattr(kind, name)) == parameters(getattr(Scores, name)) for name in methods(Scores)), kind


def test_parameters_have_the_names_and_shapes_of_the_checkpoint(models: dict[str, Any], checkpoint: Path) -> None:
    with safe_open(checkpoint / "model.safetensors", framework="np") as file:
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    def key(name: str) -> str:
        return name.removesuffix(".weight") if name.endswith(SEPARATORS) else name

    ours = {key(name): tuple(array.shape) for name, array in dict(tree_flatten(models["mlx"].parameters())).items()}
    theirs = {key(name): tuple(tensor.shape) for name, tensor in models["torch"].named_parameters()}
    assert ours == theirs
    assert len(ours) > 40 and ours.items() <= stored.items()
    # Only the end of the tower, which nothing reads, is in the checkpoint alone.
    assert all(".vision_model." in name for name in stored.keys() - ours.keys())


def attributes(module: Any) -> set[str]:
    """Names that a module gives its parts and settings, without a leading underscore; not the framework's own."""
    if isinstance(module, dict):  # MLX: arrays and modules are items, the rest are attributes
        names, framework = {*module, *vars(module)}, vars(mlx_nn.Module())
    else:
        names = {*vars(module), *module._modules, *module._parameters, *module._buffers}
        framework = vars(torch_nn.Module())
    return {name.lstrip("_") for name in names - {*framework}}


def pairs(ours: Any, theirs: Any) -> Iterator[tuple[Any, Any]]:
    """The modules at the same places of both models, wherever torch's is of our own making."""
    for name, module in theirs.named_modules():
        if type(module).__module__.startswith("mlx_phi3v."):
            here = ours
            for step in filter(None, name.split(".")):
                here = here[int(step)] if isinstance(here, list) else here[step]
            yield here, module


def test_modules_name_their_submodules_and_settings_alike(models: dict[str, Any]) -> None:
    seen = set()
    for mine, other in pairs(models["mlx"], models["torch"]):
        assert type(mine).__name__ == type(other).__name__
        assert attributes(mine) == attributes(other), type(mine).__name__
        seen.add(type(mine).__name__)
    assert {"Phi3VForCausalLM", "Phi3VModel", "ImageEmbedding", "VisionModel", "RotaryEmbedding"} <= seen
