"""scripts/accelerator_check.py: its steps, what becomes of one that fails, and, slowly, all of it on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.scripts import load_script

check = load_script("accelerator_check.py")


def test_the_sizes_are_the_true_ones_where_there_is_an_accelerator(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    large = {step.name: step.arguments for step in check.steps(tmp_path, {"torch": "a GPU"}, small=False)}
    small = {step.name: step.arguments for step in check.steps(tmp_path, {}, small=True)}
    assert "--quick" not in large["doctor"] and "--quick" in small["doctor"]
    assert "--small" not in large["true width, torch"] and "--small" in small["small width, torch"]
    assert "packed" in large["true width, torch"]  # training in 4 bits
    with_mlx = {step.name: step.arguments for step in check.steps(tmp_path, {"mlx": "a GPU"}, small=False)}
    assert "--accelerator" in with_mlx["true width, MLX"] and "true width, torch" not in with_mlx
    assert large["tune, device"][large["tune, device"].index("--backend") + 1] == "torch"
    hidden = {step.name: step.environment for step in check.steps(tmp_path, {"torch": "a GPU"}, small=False)}
    assert hidden["tune, cpu"] == {"CUDA_VISIBLE_DEVICES": ""} and not hidden["tune, device"]


def test_every_command_that_it_runs_exists(tmp_path: Path) -> None:
    for step in check.steps(tmp_path, {"torch": "a GPU", "mlx": "a GPU"}, small=False):
        first, second = step.arguments[:2]
        assert importlib.util.find_spec(second) if first == "-m" else (ROOT / first).is_file()


def test_a_step_that_fails_or_takes_too_long_is_recorded(tmp_path: Path) -> None:
    good = check.run(check.Step("good", ["-c", "print('{\"a\": 1}')"], 120, json=True), tmp_path, 120)
    assert good["found"] == {"a": 1} and "failed" not in good
    bad = check.run(check.Step("bad", ["-c", "raise SystemExit('error: no')"], 120), tmp_path, 120)
    assert bad["failed"] == "error: no" and bad["status"] == 1
    assert "no JSON" in check.run(check.Step("text", ["-c", "print('a')"], 120, json=True), tmp_path, 120)["failed"]
    assert check.run(check.Step("late", ["-c", ""], 120), tmp_path, 0)["failed"] == "no time was left"
    (tmp_path / "mlx.json").write_text('{"kinds": [{"ratio": 0.5}, {"ratio": 1.25}]}')
    wide = check.run(check.Step("true width, MLX", ["-c", ""], 120, report="mlx.json"), tmp_path, 120)
    assert "2 kinds of step; plan's estimate is 0.50 to 1.25 of the peak" in check.page(
        {"accelerators": {}, "steps": [wide], "failed": []}
    )
    slow = check.run(check.Step("slow", ["-c", "import time; time.sleep(600)"], 0.2), tmp_path, 120)
    assert slow["failed"].startswith("took more than")
    page = check.page({"accelerators": {}, "steps": [good, bad], "failed": ["bad"]})
    assert page.startswith("# No accelerator was found") and "| bad |" in page and "Failed: bad." in page


@pytest.mark.slow
def test_it_runs_small_on_a_cpu(tmp_path: Path) -> None:
    line = [sys.executable, "scripts/accelerator_check.py", "--small", "--output", str(tmp_path / "out")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {row["step"]: row for row in report["steps"]}
    assert found["doctor"]["found"]["trusted"] and "verdict" in found["compare"]["found"]
    parts = found["small width, torch"]["found"]["parts"]
    assert {"train, language", "train, 4 bit", "peer, train 1"} <= set(parts) and found["small width, torch"]["status"] == 0
    assert (
        len(found["small width, MLX"]["found"]["kinds"]) == 3 and "plan's estimate is" in (tmp_path / "out/page.md").read_text()
    )
