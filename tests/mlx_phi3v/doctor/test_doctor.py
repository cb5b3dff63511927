"""What doctor says of a sound machine, and with one framework alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from mlx_phi3v import calibration
from mlx_phi3v.calibration import Calibration
from mlx_phi3v.doctor import __main__ as doctor
from mlx_phi3v.doctor import machine, speed
from mlx_phi3v.doctor import report as report_module
from mlx_phi3v.doctor.examine import FOLDER, Examination
from mlx_phi3v.doctor.packing import pack, read_weights, unpack
from mlx_phi3v.doctor.page import show
from mlx_phi3v.doctor.settings import DoctorConfig
from mlx_phi3v.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.scripts import load_script

# One framework is blocked.
ALONE = """
import sys
sys.modules[sys.argv.pop(1)] = None
from mlx_phi3v.doctor.__main__ import console
console()
"""


@pytest.mark.numeric
@pytest.mark.parametrize(("backend", "other"), [("mlx", "torch"), ("torch", "mlx")])
def test_a_sound_machine_is_trusted_with_one_framework_alone(backend: str, other: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, other, "--json", "--quick"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | {"MLX_PHI3V_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[:2000] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["trusted"] and not report["failed"] and not report["first_to_part"]
    assert {check["backend"] for check in report["checks"]} == {"numpy", backend, f"{backend}, float32"}
    stages = {check["stage"] for check in report["checks"]}
    assert {"tower layer 2", "merge", "projector", "embeddings", "RoPE", "decoder layer 2", "logits", "greedy cached"} <= stages
    assert {"mlx-phi3v", "python", "mlx", "torch", "peft"} <= set(report["versions"])
    assert {"chip", "cores", "memory_gb", "system"} <= set(report["machine"])
    assert list(report["devices"]) == [backend] and {"device", "blas", "tf32"} <= set(report["devices"][backend])
    assert any(f"the {other} backend is not installed" in change for change in report["advice"])
    assert report["speed"] == {} and report["calibration_file"] is None and not (tmp_path / "calibration.json").exists()


def test_what_is_measured_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of steps that are small; the checks have their own tests."""
    pytest.importorskip("mlx")
    monkeypatch.setenv("MLX_PHI3V_CACHE", str(tmp_path))
    monkeypatch.setattr(speed, "WIDE", speed.NARROW)
    monkeypatch.setattr(speed, "SECONDS", 0.001)
    monkeypatch.setattr(machine, "busy", lambda: 0.0)
    monkeypatch.setattr(report_module, "WEIGHTS", ())
    monkeypatch.setattr(Examination, "check_reference", lambda self: [])
    monkeypatch.setattr(Examination, "kernels", lambda self, backend: [])
    report, _ = report_module.examine(DoctorConfig(backend=("mlx",)))
    assert set(report["speed"]["mlx"]["gflops"]) == {"float32", "bfloat16", "float16"}
    assert report["speed"]["mlx"]["gb_per_s"] > 0 and report["calibration_file"] == str(tmp_path / "calibration.json")
    assert msgspec.to_builtins(calibration.read("mlx")) == report["calibrations"]["mlx"]


def test_a_backend_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"^--backend torch is not installed: pip install 'mlx-phi3v\[torch\]'$"):
        doctor.main(["--backend", "torch"])


def test_the_recorded_cases_are_those_of_the_golden_outputs(tmp_path: Path) -> None:
    load_script("write_recorded_cases.py").write(tmp_path / "made")
    names = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file())
    assert names == sorted(
        str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*") if path.is_file()
    )
    for name in names:
        ours, theirs = FOLDER / name, tmp_path / "made" / name
        if ours.suffix != ".npz":  # its compression may differ
            assert ours.read_bytes() == theirs.read_bytes(), name
    made, stored = np.load(tmp_path / "made" / "cases.npz"), np.load(FOLDER / "cases.npz")
    assert made.files == stored.files
    for name in made.files:
        np.testing.assert_array_equal(made[name], stored[name])


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_off_by_half_a_step(bits: int, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((6, 64)).astype(np.float32)
    packed, scales, biases = pack(weight, bits)
    assert packed.shape == (6, 64 * bits // 32)
    # Half a step, and the rounding of scale and bias to fp32, which the largest q multiplies.
    most = 0.5 + 2**bits * 2.0**-22
    assert (np.abs(unpack(packed, scales, biases, bits) - weight) <= most * scales.repeat(32, axis=1)).all()


def test_bfloat16_weights_are_read_as_the_backends_read_them() -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    stored = load_file(FOLDER / "checkpoint" / "model.safetensors")
    for name, weight in read_weights(FOLDER / "checkpoint").items():
        assert torch.equal(torch.from_numpy(weight), stored[name].float()), name


def test_a_busy_machine_is_not_calibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mlx")
    monkeypatch.setenv("MLX_PHI3V_CACHE", str(tmp_path))
    found = Calibration(
        machine="here", backend="mlx", made="2026", dtype="float32", gflops=9.0, language_share=1, tower_share=1
    )
    monkeypatch.setattr(speed, "measure", lambda backend, dtypes: {"gflops": {"float32": 9.0}, "gb_per_s": 1.0})
    monkeypatch.setattr(speed, "calibrate", lambda backend, peaks: found)
    monkeypatch.setattr(Examination, "check_reference", lambda self: [])
    monkeypatch.setattr(machine, "busy", lambda: 0.9)
    monkeypatch.setattr(report_module, "WEIGHTS", ())
    monkeypatch.setattr(Examination, "kernels", lambda self, backend: [])
    report, _ = report_module.examine(DoctorConfig(backend=("mlx",)))
    assert report["calibrations"]["mlx"]["gflops"] > 0 and report["calibration_file"] is None and not list(tmp_path.iterdir())
    assert any("other work took 90% of the cores" in change for change in report["advice"])


@pytest.mark.parametrize("broken", ["describe", "measure", "calibrate"])
def test_what_does_not_run_is_reported_and_the_rest_is_still_examined(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as an MLX whose CUDA libraries are missing beside a sound torch, or too little memory for a matrix."""
    for name in ("mlx", "torch"):
        pytest.importorskip(name)
    monkeypatch.setenv("MLX_PHI3V_CACHE", str(tmp_path))
    made = Calibration(machine="here", backend="", made="2026", dtype="float32", gflops=9.0, language_share=1, tower_share=1)
    does: dict[str, Callable[..., Any]] = {
        "describe": lambda backend: {
            "device": "cpu",
            "tf32": False,
            "blas": "one",
            "metal": False,
            "cuda": False,
            "mps": False,
        },
        "measure": lambda backend, dtypes: {"gflops": {"float32": 9.0}, "gb_per_s": 1.0},
        "calibrate": lambda backend, peaks: replace(made, backend=backend),
    }

    def unless_broken(name: str) -> Callable[..., Any]:
        def run(backend: str, *rest: Any) -> Any:
            if (backend, name) == ("mlx", broken):
                raise RuntimeError("libcudart is missing")
            return does[name](backend, *rest)

        return run

    monkeypatch.setattr(report_module, "_describe", unless_broken("describe"))
    for name in ("measure", "calibrate"):
        monkeypatch.setattr(speed, name, unless_broken(name))
    monkeypatch.setattr(Examination, "check_reference", lambda self: [])
    monkeypatch.setattr(report_module, "WEIGHTS", ())
    monkeypatch.setattr(Examination, "kernels", lambda self, backend: [])
    report, checks = report_module.examine(DoctorConfig())
    assert [(check.backend, check.note) for check in checks] == [("mlx", "RuntimeError: libcudart is missing")]
    assert not report["trusted"] and report["failed"] == 1 and report["calibrations"]["torch"]["gflops"] == 9
    assert set(report["devices"]) == ({"torch"} if broken == "describe" else {"mlx", "torch"})
    assert json.loads(json.dumps(report, allow_nan=False))["first_to_part"]["mlx"].endswith("(did not run)")
    show(report, checks, Console(file=io.StringIO()))
