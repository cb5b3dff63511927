"""`python -m eval`, the README's first command, on a small catalogue: every step, and the same command once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import ROOT

# 30 products to train on: the command always holds 100 out for validation.
FLAGS = ["--products", "135", "--test", "5", "--seed", "3", "--json"]
RECIPE = """
epochs: 1
batch_size: 10
r: 4
vision: off
projector: off
warmup_steps: 1
val_rows: 4
save_every: 2
steps_per_eval: 2
"""


def run(output: Path, recipe: Path, *flags: str) -> dict[str, Any]:
    """The command's last JSON line."""
    command = [sys.executable, "-m", "eval", "--output", str(output), "--recipe", str(recipe), *FLAGS, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of one run of the whole job, and its last event."""
    pytest.importorskip("mlx")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("demo")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "run", run(folder / "run", folder / "recipe.yaml")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file that holds what was made: its bytes and its time of change."""
    names = (
        "catalogue.json",
        "config.json",
        "model.safetensors",
        "adapter_model.safetensors",
        "log.jsonl",
        "predictions.jsonl",
    )
    files = {str(path.relative_to(folder)): path for name in names for path in folder.rglob(name)}
    # A resumed run cuts its file to whole lines, which touches it; rows and log lines hold how long they took.
    touched = ("log.jsonl", "predictions.jsonl")
    return {name: (0 if path.name in touched else path.stat().st_mtime_ns, path.read_bytes()) for name, path in files.items()}


def test_every_step_leaves_its_folder_and_the_verdict_is_told(demo: tuple[Path, dict[str, Any]]) -> None:
    output, done = demo
    assert done["event"] == "done" and done["output"] == str(output)
    assert done["verdict"] in ("EQUIVALENT", "WORSE", "BETTER", "INCONCLUSIVE", "NOT MEANINGFUL")
    rows = json.loads((output / "catalogue" / "catalogue.json").read_text())["splits"]
    assert {name: split["rows"] for name, split in rows.items()} == {"train": 30, "validation": 100, "test": 5}
    assert (output / "model" / "config.json").is_file()
    for backend in ("mlx", "torch"):
        assert len((output / f"{backend}-adapter" / "log.jsonl").read_text().splitlines()) >= 1
        assert (output / f"{backend}-adapter" / "last" / "adapter_model.safetensors").is_file()
        for stage in ("base", "tuned"):
            assert len((output / f"{backend}-{stage}" / "predictions.jsonl").read_text().splitlines()) == 5
    page = (output / "report.html").read_text()
    assert done["verdict"] in page and "mlx-tuned" in page and "torch-tuned" in page


def test_the_same_command_makes_nothing_anew_and_ends_the_same(demo: tuple[Path, dict[str, Any]]) -> None:
    output, done = demo
    before = contents(output)
    assert len(before) == 3 + 2 * 4  # per backend a log, the best and last adapter at one place, and two runs
    assert run(output, output.parent / "recipe.yaml") == done
    assert contents(output) == before


def test_too_few_products_are_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "--output", str(tmp_path / "out"), "--products", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "--products 100 leaves too few to train on, after 100 to validate" in done.stderr
    assert not (tmp_path / "out").exists()
