"""The settings of an examination."""

from __future__ import annotations

from dataclasses import dataclass

from ..backend_names import BACKENDS
from ..cli import option


@dataclass(frozen=True)
class DoctorConfig:
    """Settings of an examination."""

    backend: tuple[str, ...] = option((), help="backends to examine; by default all that are installed", choices=BACKENDS)
    model: str | None = option(None, help="also check this model's folder with its own photos, its probe.json", path=True)
    quick: bool = option(False, help="fp32 alone, no speed and no calibration")
    calibrate: bool = option(True, help="store what is measured, for mlx_phi3v.plan and --memory-limit")
    forget: bool = option(False, help="remove the stored calibrations of all machines, and do nothing else")
    json: bool = option(False, help="print everything as JSON instead of the page")
