"""Find out whether this machine's results can be trusted, how fast it is, and what to change.

    python -m mlx_phi3v.doctor                  everything, on each installed backend
    python -m mlx_phi3v.doctor --quick          fp32 alone, and nothing measured
    python -m mlx_phi3v.doctor --model fused    also whether that model computes here what it did when it was written
    python -m mlx_phi3v.doctor --json > doctor.json   to attach to a report

It runs recorded cases of the published code in each dtype, compares every stage and every special kernel with its plain form,
and names the first operation that parts. The speed it measures is stored, unless other work runs on the machine, and
mlx_phi3v.plan and --memory-limit use it from then on. Exit status 0: results can be trusted; 3: a check failed; 1: a mistake
in the flags or files.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import msgspec
from rich.console import Console

from .. import calibration, cli
from ..backend import BACKENDS, DTYPES, set_up
from ..cli import option
from ..errors import UserError, run_cli
from ..golden.checks import Check
from ..progress import note, say
from . import machine, probes, speed
from .examine import WEIGHTS, Examination, first_to_part
from .page import show

FAILED = 3


@dataclass(frozen=True)
class DoctorConfig:
    """Settings of an examination."""

    backend: tuple[str, ...] = option((), help="backends to examine; by default all that are installed", choices=BACKENDS)
    model: str | None = option(None, help="also check this model's folder with its own photos, its probe.json", path=True)
    quick: bool = option(False, help="fp32 alone, no speed and no calibration")
    calibrate: bool = option(True, help="store what is measured, for mlx_phi3v.plan and --memory-limit")
    forget: bool = option(False, help="remove the stored calibrations of all machines, and do nothing else")
    json: bool = option(False, help="print everything as JSON instead of the page")


def choose_backends(config: DoctorConfig) -> list[str]:
    """Those asked for, or all installed. Raises UserError where there is none, or one asked for is missing."""
    installed = machine.installed_backends()
    missing = [name for name in config.backend if name not in installed]
    if missing or not installed:
        extra = "[torch]" if missing == ["torch"] else ""
        raise UserError(
            f"{'--backend ' + missing[0] if missing else 'no backend'} is not installed: pip install 'mlx-phi3v{extra}'"
        )
    return list(dict.fromkeys(config.backend)) or installed


def examine(config: DoctorConfig) -> tuple[dict[str, Any], list[Check]]:
    """(the report, as --json prints it; all checks)."""
    backends, here = choose_backends(config), machine.machine()
    folder = probes.require_probe(config.model) if config.model else None
    tell = partial(say, as_json=config.json)
    examination, devices = Examination(tell), {}
    checks = examination.check_reference()
    for backend in backends:
        set_up(backend)
        devices[backend] = importlib.import_module(f"mlx_phi3v.backend_{backend}.device").describe()
        checks += examination.kernels(backend)
        for weights in WEIGHTS[:1] if config.quick else WEIGHTS:
            checks += examination.model(backend, weights)
        checks += [probes.check_probe(backend, folder)] if folder else []
    speeds = {} if config.quick else {name: _measure(name, tell) for name in backends}
    made = _calibrate(speeds, tell) if config.calibrate else {}
    quiet = here["busy"] <= machine.MOST_BUSY
    failed = sum(not check.passed for check in checks)
    report = {
        "trusted": not failed, "passed": len(checks) - failed, "failed": failed, "first_to_part": first_to_part(checks),
        "versions": machine.versions(), "machine": here, "devices": devices, "speed": speeds,
        "calibrations": {name: msgspec.to_builtins(found) for name, found in made.items()},
        "calibration_file": str(calibration.path()) if made and quiet and _store(list(made.values())) else None,
        "advice": _advice(here, devices), "checks": [_plain(check) for check in checks],
    }  # fmt: skip
    return report, checks


def _measure(backend: str, tell: Any) -> dict[str, Any]:
    tell(f"{backend}: speed")
    return speed.measure(backend, DTYPES)


def _calibrate(speeds: dict[str, Any], tell: Any) -> dict[str, calibration.Calibration]:
    made = {}
    for backend, found in speeds.items():
        tell(f"{backend}: a training step")
        made[backend] = speed.calibrate(backend, found["gflops"])
    return made


def _store(made: list[calibration.Calibration]) -> bool:
    """Store them; where nothing can be written the report is still good."""
    try:
        for entry in made:
            calibration.store(entry)
    except OSError as error:
        note(f"the calibration is not stored: {calibration.path()} cannot be written ({error.strerror}); set MLX_PHI3V_CACHE")
        return False
    return True


def _advice(here: dict[str, Any], devices: dict[str, Any]) -> list[str]:
    installed = machine.installed_backends()
    changes = machine.advice(here, [name for name in BACKENDS if name not in installed])
    for backend, found in devices.items():
        changes += importlib.import_module(f"mlx_phi3v.backend_{backend}.device").advice(found)
    return changes


def _plain(check: Check) -> dict[str, Any]:
    """A check as JSON has it: it knows no infinite numbers and no NaN, so an error that is none is null."""
    finite = check.error if abs(check.error) < float("inf") else None
    return {**asdict(replace(check, error=0.0)), "error": finite, "passed": check.passed}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(DoctorConfig, "python -m mlx_phi3v.doctor", __doc__ or "", argv)
    if config.forget:
        there = calibration.forget()
        print(f"{calibration.path()} {'is removed' if there else 'was not there'}")
        return 0
    report, checks = examine(config)
    if config.json:
        print(json.dumps(report, indent=1))
    else:
        show(report, checks, Console(width=None if Console().is_terminal else 150))
    return 0 if report["trusted"] else FAILED


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
