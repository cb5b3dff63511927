"""The `model_file` is made of this project's modules, stands alone, and is the same wherever and whenever it is written."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.decoding import load_model
from mlx_phi3v.model_file.source import MODEL_FILE, model_source
from tests.helpers.paths import ROOT

# What mlx-vlm brings along, besides Python itself.
ALLOWED = {"mlx", "mlx_vlm", "numpy", "PIL", "tokenizers", "transformers"}
_DIGEST = (
    "import hashlib; from mlx_phi3v.model_file.source import *; print(hashlib.sha256(model_source().encode()).hexdigest())"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlx.core")
    path = tmp_path_factory.mktemp("model") / "model"
    convert(ConvertConfig("tiny", path))
    return path


def test_a_folder_holds_the_file_its_name_and_its_hash(folder: Path) -> None:
    text = (folder / MODEL_FILE).read_text(encoding="utf-8")
    assert text == model_source()
    assert json.loads((folder / "config.json").read_text())["model_file"] == MODEL_FILE
    readme = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest() in readme
    assert "runs that file" in readme


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_writes_the_same_file(seed: str) -> None:
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == hashlib.sha256(model_source().encode()).hexdigest()


def test_it_imports_only_what_mlx_vlm_brings() -> None:
    imports = [node for node in ast.walk(ast.parse(model_source())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = set()
    for node in imports:
        assert not isinstance(node, ast.ImportFrom) or node.level == 0
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
    packages = {name.partition(".")[0] for name in names}
    assert packages - set(sys.stdlib_module_names) <= ALLOWED and {"mlx", "numpy", "PIL"} <= packages
    assert not re.search(r"import\w*\s*\(|exec\s*\(|eval\s*\((?!list)", model_source().replace("mx.eval(", "("))


def test_no_name_is_left_undefined(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_text(model_source(), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--ignore-noqa", "--select", "F82,F811,E9", MODEL_FILE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_cpu_has_no_code_of_its_own_in_it() -> None:
    assert "on_cpu" not in model_source() and "cpu_" not in model_source()


def test_our_own_commands_never_run_it(folder: Path, tmp_path: Path) -> None:
    """mlx_phi3v opens such folders, and their code may be anybody's."""
    ran = tmp_path / "ran"
    (folder / MODEL_FILE).write_text(f"open({str(ran)!r}, 'w')\n")
    for backend in ("mlx", "torch"):
        pytest.importorskip(backend)
        load_model(str(folder), backend)
    convert(ConvertConfig(str(folder), tmp_path / "again"))
    assert not ran.exists()
    assert (tmp_path / "again" / MODEL_FILE).read_text() == model_source()  # not copied, but written


def test_a_folder_without_it_names_none(tmp_path: Path, folder: Path) -> None:
    convert(ConvertConfig(str(folder), tmp_path / "without", model_file=False))
    assert "model_file" not in json.loads((tmp_path / "without" / "config.json").read_text())
    assert (
        not (tmp_path / "without" / MODEL_FILE).exists() and MODEL_FILE not in (tmp_path / "without" / "README.md").read_text()
    )
