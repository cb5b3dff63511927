"""How the code is laid out: imports run one way and never in a circle, files and functions stay short."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.helpers.paths import ROOT

PACKAGES = ("mlx_phi3v", "data", "eval")  # each may import those before it
MOST_FILE_LINES = 300
MOST_FUNCTION_LINES = 40
LONG_FUNCTIONS = 0  # how many may be longer
LONG_FILES: set[str] = set()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(name: str, path: Path) -> Iterator[str]:
    """What a module imports anywhere in it, also inside functions and for types alone; an object with its module."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


@functools.cache
def import_graph() -> dict[str, frozenset[str]]:
    """Module -> the modules of the packages that it imports."""
    known = modules()
    graph = {}
    for name, path in known.items():
        names = imported_names(name, path)
        found = {full if full in known else full.rpartition(".")[0] for full in names}
        graph[name] = frozenset((found & set(known)) - {name})
    return graph


def test_the_graph_sees_imports_of_every_form() -> None:
    graph = import_graph()
    assert len(graph) > 120 and sum(map(len, graph.values())) > 400
    assert "mlx_phi3v.cli" in graph["eval.__main__"]  # from mlx_phi3v import cli
    assert "eval.compare.statistics" in graph["eval.compare.metrics"]  # from .statistics import Mean
    assert "eval.runs.columns" in graph["eval.compare.metrics"]  # for types alone
    assert "data.ingest.download" in graph["data.ingest.pipeline"]  # inside a function


def test_imports_run_from_eval_to_data_to_mlx_phi3v_only() -> None:
    rank = {package: i for i, package in enumerate(PACKAGES)}
    wrong = [
        f"{name} imports {other}"
        for name, others in import_graph().items()
        for other in others
        if rank[other.partition(".")[0]] > rank[name.partition(".")[0]]
    ]
    assert not wrong, "imports against the order eval -> data -> mlx_phi3v:\n" + "\n".join(sorted(wrong))


def test_no_modules_import_each_other_in_a_circle() -> None:
    circle: list[str] = []
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle, "modules that import each other: " + " <- ".join(circle)


def test_files_are_short() -> None:
    paths = [path for folder in (*PACKAGES, "scripts") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    long = {name: length for name, length in lengths.items() if length > MOST_FILE_LINES and name not in LONG_FILES}
    assert len(lengths) > 120
    assert not long, f"files over {MOST_FILE_LINES} lines: {long}; split them by what they hold"


def test_functions_are_short() -> None:
    long = {
        f"{name}.{node.name}": length
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MOST_FUNCTION_LINES
    }
    listed = ", ".join(f"{name} ({length})" for name, length in sorted(long.items(), key=lambda item: -item[1]))
    assert len(long) <= LONG_FUNCTIONS, (
        f"{len(long)} functions over {MOST_FUNCTION_LINES} lines, at most {LONG_FUNCTIONS} may be: {listed}"
    )
