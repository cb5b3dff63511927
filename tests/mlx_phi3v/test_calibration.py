"""What doctor measured is used by plan and --memory-limit on that machine, and a file that is wrong is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlx_phi3v import calibration, plan
from mlx_phi3v.backend import default_backend
from mlx_phi3v.calibration import Calibration
from mlx_phi3v.doctor.__main__ import main as doctor
from mlx_phi3v.training.footprint import footprint
from tests.mlx_phi3v.test_plan import ALL, PUBLISHED, BatchShape


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_PHI3V_CACHE", str(tmp_path / "cache"))
    return calibration.path()


def entry(**values: Any) -> Calibration:
    made = {"machine": calibration.machine(), "backend": default_backend(), "made": "2026-11-26T12:00:00+00:00"}
    return Calibration(**{**made, "dtype": "float32", "gflops": 200.0, "language_share": 0.5, "tower_share": 0.25,
                          "activations": 1.5, **values})  # fmt: skip


def planned(checkpoint: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert plan.main(["--model", str(checkpoint), "--photo", "300x300", "--json", *flags]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_a_plan_uses_it_and_says_so(file: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = planned(checkpoint, capsys, "--gflops", "200")
    calibration.store(entry())
    known = planned(checkpoint, capsys)
    assert known["gflops"] == 200 and known["calibrated"] == "2026-11-26T12:00:00+00:00"
    assert known["activations_gb"] == pytest.approx(1.5 * plain["activations_gb"], rel=1e-3)  # whole bytes
    assert known["seconds_per_step"] > 1.2 * plain["seconds_per_step"]
    assert planned(checkpoint, capsys, "--gflops", "200") == plain and plain["calibrated"] is None  # of another machine
    assert plan.main(["--model", str(checkpoint), "--photo", "300x300"]) == 0
    assert "as mlx_phi3v.doctor measured them here on 2026-11-26" in capsys.readouterr().out


def test_a_plan_in_another_dtype_says_that_its_time_may_be_far_off(
    file: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration.store(entry(dtype="float32"))
    for dtype, said in (("float32", False), ("bfloat16", True)):
        assert plan.main(["--model", str(checkpoint), "--photo", "300x300", "--dtype", dtype]) == 0
        assert ("measured in float32, not in bfloat16" in capsys.readouterr().out) is said


@pytest.mark.parametrize("other", [{"machine": "another"}, {"backend": "abacus"}])
def test_that_of_another_machine_or_backend_is_not_used(file: Path, other: dict[str, str]) -> None:
    calibration.store(entry(**other))
    assert calibration.read(default_backend()) is None
    calibration.store(entry())
    calibration.store(entry(gflops=300.0))
    assert len(json.loads(file.read_text())["calibrations"]) == 2
    found = calibration.read(default_backend())
    assert found is not None and found.gflops == 300


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"calibrations": 3}', '{"calibrations": [{"machine": 1}]}', "\x00\xff", '{"calibrations": [NaN]}'],
)
def test_a_corrupt_file_is_one_sentence_and_is_ignored(file: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.mkdir()
    file.write_text(content, encoding="latin-1")
    assert calibration.read("mlx") is None
    said = capsys.readouterr().err
    assert said.startswith("note: ") and "it is ignored" in said and str(file) in said.replace("\n", "")
    calibration.store(entry())
    assert calibration.read(default_backend()) == entry()


@pytest.mark.parametrize(
    "wrong", [{"gflops": 0}, {"gflops": -5}, {"language_share": 40}, {"tower_share": 0}, {"activations": 1e9}, {"more": 1}]
)
def test_numbers_that_cannot_be_are_not_used(file: Path, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"calibrations": [msgspec.to_builtins(entry()) | wrong]}))
    assert calibration.read(default_backend()) is None and next(iter(wrong)) in capsys.readouterr().err


def test_it_is_forgotten(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration.store(entry())
    assert doctor(["--forget"]) == 0 and not file.exists()
    assert doctor(["--forget"]) == 0
    assert capsys.readouterr().out == f"{file} is removed\n{file} was not there\n"


def test_the_folder_is_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLX_PHI3V_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.path() == tmp_path / "mlx_phi3v" / "calibration.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert calibration.path().parent.name == "mlx_phi3v" and calibration.path().is_relative_to(Path.home())


def test_activations_alone_are_corrected() -> None:
    shape = BatchShape(4, 900, 20)
    plain, more = footprint(PUBLISHED, shape, ALL), footprint(PUBLISHED, shape, replace(ALL, activations=2.0))
    assert (more.weights, more.adapter) == (plain.weights, plain.adapter)
    assert more.activations == pytest.approx(2 * plain.activations, abs=2)
