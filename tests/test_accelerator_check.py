"""scripts/accelerator_check.py: its steps, what becomes of one that fails, and, slowly, all of it on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.scripts import load_script

check = load_script("accelerator_check.py")


def test_an_output_that_is_there_or_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for output, said in (("file", "exists"), ("file/below", "cannot be made (Not a directory)"), ("x" * 300, "cannot be made")):
        with pytest.raises(SystemExit) as end:
            check.main(["--output", str(tmp_path / output)])
        message = capsys.readouterr().err
        assert end.value.code == 2 and f"--output {tmp_path / output} {said}" in message and "give a new folder" in message


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
    assert hidden["tune, cpu"] == {"CUDA_VISIBLE_DEVICES": "", "MLX_PHI3V_TORCH_DEVICE": "cpu"} and not hidden["tune, device"]


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
    page = check.page({"accelerators": {}, "steps": [good, bad], "failed": ["bad"]})
    assert page.startswith("# No accelerator was found") and "| bad |" in page and "Failed: bad." in page


def test_a_step_that_takes_too_long_is_ended_with_what_it_started_and_what_it_found_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has one of its own, which holds the output open; a checkpoint that it wrote is removed."""
    program = """
import os, pathlib, subprocess, sys, time
pathlib.Path(os.environ["TMPDIR"], "checkpoint").write_text("8 GB")
pathlib.Path("FOLDER/cuda.json").write_text('{"parts": {"train": [{"tokens/s": 9, "plan / peak": 0.5}]}, "failed": []}')
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("began", flush=True)
pathlib.Path("FOLDER/new").write_text(str(child.pid))
pathlib.Path("FOLDER/new").rename("FOLDER/child")
time.sleep(600)
""".replace("FOLDER", str(tmp_path))
    scratch = {"TMPDIR": str(tmp_path / check.SCRATCH)}
    step = check.Step("true width, torch", ["-c", program], 100, environment=scratch, report="cuda.json")
    communicate = subprocess.Popen.communicate

    def too_long(process: subprocess.Popen[str], timeout: float | None = None) -> tuple[str, str]:
        """Time is up once the step has done all that."""
        while timeout and not (tmp_path / "child").exists():
            time.sleep(0.01)
        if timeout:
            raise subprocess.TimeoutExpired(process.args, timeout)
        return communicate(process)

    monkeypatch.setattr(subprocess.Popen, "communicate", too_long)
    slow = check.run(step, tmp_path, 120)
    assert slow["failed"] == "took more than 100 s" and slow["found"]["parts"]["train"]
    assert (tmp_path / "true-width-torch.txt").read_text() == "began\n" and not (tmp_path / check.SCRATCH).exists()
    child = int((tmp_path / "child").read_text())
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    page = check.page({"accelerators": {"torch": "a GPU"}, "steps": [slow], "failed": [slow["step"]]})
    assert "took more than 100 s; 1 cases; plan's estimate is 0.50 to 0.50" in page


def test_what_a_steps_own_report_names_as_failed_is_said(tmp_path: Path) -> None:
    """Exit status 1 of the memory check alone is no failure; a warning on stderr is not the cause."""
    names = '{"kinds": [], "failed": ["bf16, 8 rows"]}'
    (tmp_path / "mlx.json").write_text(names)
    program = "import sys; print('a warning', file=sys.stderr); raise SystemExit(1)"
    wide = check.run(check.Step("true width, MLX", ["-c", program], 120, good=(0, 1), report="mlx.json"), tmp_path, 120)
    assert wide["failed"] == "failed: bf16, 8 rows"
    doctor = 'print(\'{"trusted": false, "failed": 2, "first_to_part": {"torch, bfloat16": "merge"}}\'); raise SystemExit(3)'
    row = check.run(check.Step("doctor", ["-c", doctor], 120, json=True), tmp_path, 120)
    assert row["failed"] == "torch, bfloat16: merge"
    assert "its report is not whole" in check.page({"accelerators": {}, "steps": [row], "failed": ["doctor"]})


def test_time_is_reserved_for_the_figures_at_true_width(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    both = check.steps(tmp_path, {"torch": "a GPU", "mlx": "a GPU"}, small=False)
    kept = {step.name: step.reserved for step in both if step.reserved}
    assert set(kept) == {"true width, torch", "true width, MLX"} and check.SECONDS - sum(kept.values()) >= both[0].seconds


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
