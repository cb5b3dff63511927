"""One self-contained Python file made of this project's own modules, so that the model is written once.

Of each module the listed names are taken, or all; its imports of the project are left out, and what it calls through a
module (`rope.attention_scale`) is called by its name. Branches for a CPU (`ops.on_cpu`, `ops.is_ours`) are left out: they need
threads of their own, which mlx-vlm's server, with its threads, does not have.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPU = {"on_cpu", "is_ours"}
MODEL_FILE = "phi3v_mlx_vlm.py"  # its name in a checkpoint folder
_ROOT = Path(__file__).parents[1]
# (module, names that are taken; none: all), those that others need first.
_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("errors", ("UserError",)),
    ("config", ("CROP_SIZE", "CROPS_AT_ONCE", "IMAGE_MEAN", "IMAGE_STD", "VisionArgs", "Quantization", "ModelArgs")),
    ("task", ("END", "_SPECIAL", "defused")),
    ("model_file.chat_template", ()),
    ("prompts", ()),
    ("crops", ("ProcessedImage", "encoded_crops", "crop_grid", "hd_transform", "_cubic_taps", "_weighted_sum", "resize_bicubic",
               "_NORMALISED", "normalise", "process_image", "image_token_count", "image_token_index")),
    ("rope", ()),
    ("checkpoint.layout", ("VISION", "CLIP", "EMBEDDING_COPY", "is_unused")),
    ("backend_mlx.ops", ("attention", "cut", "add", "rotate", "swiglu", "quick_gelu", "LayerNorm", "RMSNorm")),
    ("backend_mlx.arrays", ("trains",)),
    ("backend_mlx.random_keys", ()),
    ("backend_mlx.checkpointing", ()),
    ("backend_mlx.decoder", ()),
    ("backend_mlx.vision", ()),
    ("backend_mlx.model", ("Separator", "parameter_name", "ImageProcessorModule", "ImageEmbedding", "Phi3VModel")),
    ("backend_mlx_vlm.config", ()),
    ("backend_mlx_vlm.history", ()),
    ("backend_mlx_vlm.model", ()),
    ("backend_mlx_vlm.processor", ()),
    ("backend_mlx_vlm.verify", ()),
)  # fmt: skip
_HEAD = '''"""Phi-3-Vision for mlx-vlm and what runs on it (its generate, chat and server; LM Studio).

`config.json` names this file as `model_file`: mlx-vlm RUNS it when it loads the folder. It was made by mlx-phi3v {version} of
its own modules, and imports nothing of that package. README.md beside it has the SHA-256 of this file as it was made.
Do not edit it: convert the model again instead. Licence: MIT, copyright (c) 2026 The mlx-phi3v authors.
"""
# ruff: noqa
'''


@dataclass(frozen=True)
class _Module:
    """A module's text, and where it is used: names that it imports of the project, and modules that it calls through."""

    name: str
    lines: list[str]
    tree: ast.Module

    @classmethod
    def read(cls, name: str) -> _Module:
        text = (_ROOT / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        return cls(name, text.splitlines(), ast.parse(text))

    def imports(self) -> Iterator[ast.Import | ast.ImportFrom]:
        return (node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))

    def aliases(self) -> set[str]:
        """Names that stand for modules of the project."""
        own = (node for node in self.imports() if isinstance(node, ast.ImportFrom) and node.level and not _is_file(node, self))
        return {alias.asname or alias.name for node in own for alias in node.names}


def _is_file(node: ast.ImportFrom, module: _Module) -> bool:
    """Whether `from X import names` takes names out of a file, not modules out of a package."""
    package = (_ROOT / module.name.replace(".", "/")).parents[node.level - 1]
    return bool(node.module) and package.joinpath(*(node.module or "").split(".")).with_suffix(".py").is_file()


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module gives."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def _statements(module: _Module, names: tuple[str, ...]) -> list[ast.stmt]:
    """The statements of a module that are taken."""
    body = [node for node in module.tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    body = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    taken = [node for node in body if not names or set(_defined(node)) & set(names)]
    missing = set(names) - {name for node in taken for name in _defined(node)}
    assert not missing, f"{module.name} has no {sorted(missing)}"
    return taken


def _text(module: _Module, node: ast.stmt) -> str:
    """A statement as it is written, with its decorators and the comments above it, and the two changes."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))]) - 1
    while first and module.lines[first - 1].startswith("#"):
        first -= 1
    lines = {number: module.lines[number] for number in range(first, node.end_lineno or node.lineno)}
    aliases = module.aliases()
    through = [
        item
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id in aliases
    ]
    for item in sorted(through, key=lambda item: (item.lineno, item.col_offset), reverse=True):
        line = lines[item.lineno - 1].encode()
        end = item.end_col_offset or 0
        lines[item.lineno - 1] = (line[: item.col_offset] + item.attr.encode() + line[end:]).decode()
    for branch in (item for item in ast.walk(node) if isinstance(item, ast.If)):
        if _CPU & {part.id for part in ast.walk(branch.test) if isinstance(part, ast.Name)}:
            for number in range(branch.lineno - 1, branch.end_lineno or branch.lineno):
                lines.pop(number)
    return "\n".join(line.rstrip() for line in lines.values())


def _imports(modules: list[_Module], body: str) -> list[str]:
    """The imports from outside the project that the body needs, one name a line."""
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    lines: set[str] = set()
    for node in (node for module in modules for node in module.imports()):
        for alias in node.names:
            bound, renamed = alias.asname or alias.name, f" as {alias.asname}" if alias.asname else ""
            if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__" and bound in used:
                lines.add(f"from {node.module} import {alias.name}{renamed}")
            elif isinstance(node, ast.Import) and (bound.partition(".")[0] in used or "." in alias.name):
                lines.add(f"import {alias.name}{renamed}")
    return sorted(lines, key=lambda line: (line.startswith("from"), line))


@cache
def model_source() -> str:
    """The text of the file: the same for the same version of the project. Raises AssertionError where two names are alike."""
    from .. import __version__

    modules, pieces, owner = [], [], dict[str, str]()
    for name, names in _PARTS:
        module = _Module.read(name)
        modules.append(module)
        for node in _statements(module, names):
            for defined in _defined(node):
                assert owner.setdefault(defined, name) == name, f"{defined} is in {owner[defined]} and in {name}"
            pieces.append(_text(module, node))
    body = "\n\n\n".join(pieces) + "\n"
    return _HEAD.format(version=__version__) + "\n" + "\n".join(_imports(modules, body)) + "\n\n\n" + body
