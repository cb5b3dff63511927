"""`python -m eval`, the README's first command, on a small catalogue: every step, and the same command once more."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eval.demo.settings import DemoConfig, check_settings
from mlx_phi3v.errors import UserError
from tests.helpers.paths import ROOT

# 30 products to train on: the command always holds 100 out for validation.
FLAGS = ["--products", "135", "--test", "5", "--seed", "3", "--tune-on", "torch", "--json"]
RUNS = ("mlx-first", "torch-first", "torch-first-batch-1", "torch-tuned", "torch-adapter-on-mlx", "torch-tuned-batch-1")
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


def run(output: Path, recipe: Path, *flags: str) -> list[dict[str, Any]]:
    """The command's JSON lines."""
    command = [sys.executable, "-m", "eval", "--output", str(output), "--recipe", str(recipe), *FLAGS, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the job runs, with the recipe beside it."""
    pytest.importorskip("mlx")
    pytest.importorskip("torch")
    made = tmp_path_factory.mktemp("demo")
    (made / "recipe.yaml").write_text(RECIPE)
    return made


@pytest.fixture(scope="module")
def demo_events(folder: Path) -> list[dict[str, Any]]:
    """What one run of the whole job prints."""
    return run(folder / "run", folder / "recipe.yaml")


@pytest.fixture(scope="module")
def demo(folder: Path, demo_events: list[dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of that run, and its last event."""
    return folder / "run", demo_events[-1]


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


def test_every_step_leaves_its_folder_and_the_claim_is_told(demo: tuple[Path, dict[str, Any]]) -> None:
    output, done = demo
    assert done["event"] == "done" and done["output"] == str(output) and done["claim"] == "same computation"
    # Five products and a model that learned nothing settle nothing, but both backends compute the same.
    assert done["state"] == "NOT SETTLED" and done["verdict"] in ("INCONCLUSIVE", "NOT MEANINGFUL")
    assert done["same_tokens"] == done["rows"] == 5 and done["largest_gap"] < 1e-4  # fp32; as in test_pipeline
    rows = json.loads((output / "catalogue" / "catalogue.json").read_text())["splits"]
    assert {name: split["rows"] for name, split in rows.items()} == {"train": 30, "validation": 100, "test": 5}
    assert (output / "model" / "config.json").is_file()
    assert len((output / "torch-adapter" / "log.jsonl").read_text().splitlines()) >= 1
    assert (output / "torch-adapter" / "last" / "adapter_model.safetensors").is_file()
    for name in RUNS:
        assert len((output / name / "predictions.jsonl").read_text().splitlines()) == 5
    page = (output / "report.html").read_text()
    assert done["verdict"] in page and "torch-tuned" in page and "torch-adapter-on-mlx" in page


def test_the_same_command_makes_nothing_again_and_ends_the_same(demo: tuple[Path, dict[str, Any]]) -> None:
    output, done = demo
    before = contents(output)
    assert len(before) == 3 + 2 + len(RUNS)  # catalogue and model; a log, the best and last adapter at one place; the runs
    assert run(output, output.parent / "recipe.yaml")[-1] == done
    assert contents(output) == before


def test_a_first_answer_comes_before_the_training(demo_events: list[dict[str, Any]]) -> None:
    names = [event.get("stage", event["event"]) for event in demo_events]
    first = names.index("first_answer")
    assert demo_events[first]["rows"] == demo_events[first]["same_tokens"] == 5
    assert not any(name.startswith("Tuning") for name in names[:first])
    assert any(name.startswith("Tuning") for name in names[first:])
    assert all(event["cpu_seconds"] > 0 for event in demo_events if event["event"] == "stage")


def test_a_backend_to_tune_on_that_is_not_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tune-on mlx is not one of --backends torch"):
        check_settings(DemoConfig(tmp_path, backends=("torch",), tune_on="mlx"))


def test_too_few_products_are_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "--output", str(tmp_path / "out"), "--products", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "--products 100 leaves too few to train on, after 100 to validate" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_trainings_with_two_seeds_survive_kills_and_more_seeds_go_on(folder: Path) -> None:
    output = folder / "seeds"
    command = [sys.executable, "-m", "eval", "--output", str(output), "--recipe", str(folder / "recipe.yaml"), *FLAGS]
    for made in ("torch-adapter/last", "mlx-adapter/last", "torch-tuned-seed-1/predictions.jsonl"):
        process = subprocess.Popen([*command, "--seeds", "2"], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not (output / made).exists():
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(output, folder / "recipe.yaml", "--seeds", "2")[-1]
    assert done["claim"] == "as good a training" and done["seeds"] == 2 and done["exit_status"] in (3, 4)
    adapters = {path.parent.parent.name for path in output.glob("*-adapter*/last/adapter_model.safetensors")}
    assert adapters == {f"{backend}-adapter{seed}" for backend in ("mlx", "torch") for seed in ("", "-seed-1")}
    before = contents(output)
    assert run(output, folder / "recipe.yaml", "--seeds", "3")[-1]["seeds"] == 3
    after = contents(output)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
