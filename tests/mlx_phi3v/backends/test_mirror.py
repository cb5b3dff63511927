"""The backends mirror each other: the same files, classes, functions and methods, in the same order."""

from __future__ import annotations

import ast

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "mlx_phi3v"
FILES = ("model.py", "backend.py", "lora.py", "vision.py", "decoder.py", "cache.py", "quantized.py", "checkpointing.py")
# Parts that one framework needs and the other has no use for; each is explained where it stands.
ONLY_ONE = {"arrays.py"}
# Names of one idea: how a module is called is each framework's own.
CALL = {"__call__": "forward"}


def tree(backend: str, file: str) -> ast.Module:
    return ast.parse((PACKAGE / f"backend_{backend}" / file).read_text())


def imported(module: ast.Module) -> list[str]:
    """Names a file takes from its framework and gives on as its own, by `__all__`."""
    for node in module.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [ast.literal_eval(item) for item in node.value.elts]  # type: ignore[attr-defined]
    return []


def outline(module: ast.Module) -> list[str]:
    """Public names in order: "Class", "Class.method", "function"."""
    names = []
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (item.name in CALL or not item.name.startswith("_")):
                    names.append(f"{node.name}.{CALL.get(item.name, item.name)}")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            names.append(node.name)
    return [name.replace("MLXBackend", "Backend").replace("TorchBackend", "Backend") for name in names]


def test_both_packages_hold_the_same_files() -> None:
    ours, theirs = ({p.name for p in (PACKAGE / f"backend_{name}").glob("*.py")} for name in ("mlx", "torch"))
    assert ours - theirs == ONLY_ONE and not theirs - ours
    assert set(FILES) == (ours & theirs) - {"__init__.py"}


@pytest.mark.parametrize("file", FILES)
def test_what_both_define_stands_in_the_same_order(file: str) -> None:
    ours, theirs = (outline(tree(name, file)) for name in ("mlx", "torch"))
    common = set(ours) & set(theirs)
    assert common or file == "quantized.py"
    assert [name for name in ours if name in common] == [name for name in theirs if name in common]


@pytest.mark.parametrize("file", ["model.py", "vision.py", "decoder.py"])
def test_every_class_of_one_side_is_on_the_other(file: str) -> None:
    modules = {name: tree(name, file) for name in ("mlx", "torch")}
    classes = {name: [n.name for n in module.body if isinstance(n, ast.ClassDef)] for name, module in modules.items()}
    known = {name: set(classes[name]) | set(imported(modules[name])) for name in modules}
    # MLX: the patch convolution is a matrix product here, and part of transformers' embeddings there.
    assert known["mlx"] - known["torch"] <= {"PatchEmbedding"}
    # RMSNorm comes from mlx.nn; transformers' configuration objects have no counterpart.
    assert known["torch"] - known["mlx"] <= {"RMSNorm", "phi3_config"}


@pytest.mark.parametrize("file", FILES)
def test_shared_names_carry_the_same_first_line_of_docstring(file: str) -> None:
    def lines(module: ast.Module) -> dict[str, str]:
        found = {}
        for node in module.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                found[node.name] = text.splitlines()[0]
        return found

    ours, theirs = (lines(tree(name, file)) for name in ("mlx", "torch"))
    differing = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    # Where the operation differs, the first line may say so.
    assert differing <= {"load", "checkpointed", "RotaryEmbedding"}, {name: (ours[name], theirs[name]) for name in differing}


def test_both_backends_have_every_method_of_the_protocol() -> None:
    [protocol] = [n for n in ast.parse((PACKAGE / "backend.py").read_text()).body if getattr(n, "name", "") == "Backend"]
    methods = [n.name for n in protocol.body if isinstance(n, ast.FunctionDef)]  # type: ignore[attr-defined]
    assert len(methods) > 15
    for name in ("mlx", "torch"):
        defined = [part.removeprefix("Backend.") for part in outline(tree(name, "backend.py")) if part.startswith("Backend.")]
        assert [method for method in defined if method in methods] == methods
