"""What the documents name exists: links, commands, modules and files; and the same for commands in docstrings."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [path for folder in ("mlx_phi3v", "data", "eval", "scripts", "examples") for path in (ROOT / folder).rglob("*.py")]
CODE += [*(ROOT / "examples").glob("*.yaml"), *(ROOT / "scripts").glob("*.sh")]

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
_MODULE = re.compile(r"python\s+-m\s+((?:mlx_phi3v|data|eval)\b[\w.]*)")
_SCRIPT = re.compile(r"(?:python|bash)\s+((?:scripts|tests)/[\w./-]+)")
_COMMAND = re.compile(r"(?<![\w/.-])mlx_phi3v\.([a-z_]+)")
_PATH = re.compile(r"(?<![\w/.-])(?:mlx_phi3v|data|eval|scripts|tests|docs|examples)/[\w./*-]*[\w*/]")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(page: Path) -> str:
    """All that a page puts into backticks."""
    return "\n".join(_SPAN.findall(page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_commands(text: str) -> Iterator[str]:
    """The modules and scripts that a text runs and that do not exist."""
    for module in _MODULE.findall(text):
        module = module.rstrip(".")
        spec = importlib.util.find_spec(module)
        if spec is None or (spec.submodule_search_locations and importlib.util.find_spec(f"{module}.__main__") is None):
            yield f"python -m {module}"
    yield from (script for script in _SCRIPT.findall(text) if not (ROOT / script).is_file())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert ROOT in target.resolve().parents, f"{link} is outside the repository"
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_files_that_a_page_names_exist(page: Path) -> None:
    commands = {
        key.removeprefix("mlx_phi3v.") for key in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    }
    code = code_of(page)
    wrong = list(missing_commands(code))
    wrong += [path for path in _PATH.findall(code) if not list(ROOT.glob(path.rstrip("/")))]
    wrong += [
        f"mlx_phi3v.{command}"
        for command in _COMMAND.findall(code)
        if command not in commands and importlib.util.find_spec(f"mlx_phi3v.{command}") is None
    ]
    assert not wrong, f"{name(page)} names what does not exist: {sorted(set(wrong))}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_pages_name_no_file_that_a_clone_lacks(page: Path) -> None:
    assert "../shared" not in page.read_text(encoding="utf-8")


def test_commands_that_the_code_names_exist() -> None:
    wrong = {name(path): found for path in CODE if (found := list(missing_commands(path.read_text(encoding="utf-8"))))}
    assert not wrong
