"""The whole report: every check on every backend, the speeds, the calibration and what to change."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from .. import calibration
from ..backend import set_up
from ..backend_names import BACKENDS, DTYPES
from ..errors import UserError
from ..golden.checks import Check
from ..progress import note, say
from . import machine, probes, speed
from .examine import WEIGHTS, Examination, first_to_part
from .kernels import did_not_run
from .settings import DoctorConfig

Found = TypeVar("Found")


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
        found = attempt(backend, "the device", partial(_describe, backend), checks)
        if found is None:  # such as a library that the framework lacks: the other backend may be sound
            continue
        devices[backend] = found
        checks += examination.kernels(backend)
        for weights in WEIGHTS[:1] if config.quick else WEIGHTS:
            checks += examination.model(backend, weights)
        checks += [probes.check_probe(backend, folder)] if folder else []
    speeds = {} if config.quick else _measure(list(devices), tell, checks)
    made = _calibrate(speeds, tell, checks) if config.calibrate else {}
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


def attempt(backend: str, what: str, run: Callable[[], Found], checks: list[Check]) -> Found | None:
    """The result of `run`. Where that fails a failed check is added, and the rest of the report is still made."""
    try:
        return run()
    except UserError:
        raise
    except Exception as error:
        checks.append(did_not_run(backend, what, error))
        return None


def _describe(backend: str) -> dict[str, Any]:
    set_up(backend)
    found: dict[str, Any] = importlib.import_module(f"mlx_phi3v.backend_{backend}.device").describe()
    return found


def _measure(backends: list[str], tell: Any, checks: list[Check]) -> dict[str, Any]:
    speeds: dict[str, Any] = {}
    for backend in backends:
        tell(f"{backend}: speed")
        found = attempt(backend, "speed", partial(speed.measure, backend, DTYPES), checks)
        if found is not None:
            speeds[backend] = found
    return speeds


def _calibrate(speeds: dict[str, Any], tell: Any, checks: list[Check]) -> dict[str, calibration.Calibration]:
    made: dict[str, calibration.Calibration] = {}
    for backend, found in speeds.items():
        tell(f"{backend}: a training step")
        entry = attempt(backend, "a training step", partial(speed.calibrate, backend, found["gflops"]), checks)
        if entry is not None:
            made[backend] = entry
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
