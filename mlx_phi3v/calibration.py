"""What `doctor` measured on this machine, and `plan` and `--memory-limit` estimate with from then on.

One small file in the user's cache folder, with an entry for each machine and backend: several machines may share a home.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec

from .cores import cores
from .documents import read_as
from .errors import UserError
from .files import write_json
from .progress import note
from .user_cache import cache_folder

_Share = Annotated[float, msgspec.Meta(gt=0, le=2)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One machine and backend. Shares are of `gflops`, which a training step reaches; activations: of the estimated bytes.

    attention_share and unpacked are None in files of earlier versions.
    """

    machine: str
    backend: str
    made: str  # when: ISO 8601, to the second
    dtype: str  # what it was measured in: the backend's default there
    gflops: Annotated[float, msgspec.Meta(gt=0)]  # of matrix products
    language_share: _Share
    tower_share: _Share
    activations: Annotated[float, msgspec.Meta(ge=0.1, le=10)] | None = None  # None: the backend does not count its memory
    attention_share: _Share | None = None
    unpacked: Annotated[float, msgspec.Meta(gt=0)] | None = None  # 1e9 packed weights a second, where a step unpacks them


class _File(msgspec.Struct, forbid_unknown_fields=True):
    calibrations: list[Calibration]


def path() -> Path:
    """Where the file is, or would be."""
    return cache_folder() / "calibration.json"


def machine() -> str:
    """This machine as the file names it: system, processor, cores that may be used, NVIDIA GPUs."""
    return ", ".join([platform.system(), chip(), f"{cores()} cores", *_gpus()])


def chip() -> str:
    """The processor's name, as far as the system tells it."""
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return asked.stdout.strip() or platform.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.+)$", file.read_text(errors="replace"), re.MULTILINE)
        names += [found[1].strip()] if found else []
    return names


def _entries() -> list[Calibration]:
    """All entries; none where there is no file, or one that cannot be read, which is reported."""
    file = path()
    if not os.path.exists(file):  # Path.exists raises where a folder above may not be entered
        return []
    try:
        return read_as(file, "calibration", _File).calibrations
    except UserError as error:
        note(f"{error}; it is ignored, and mlx_phi3v.doctor writes it again")
        return []


def read(backend: str) -> Calibration | None:
    """This machine's calibration of a backend, if there is one."""
    here = machine()
    return next((entry for entry in _entries() if (entry.machine, entry.backend) == (here, backend)), None)


def store(calibration: Calibration) -> Path:
    """Write it in the place of an earlier one of this machine and backend; the file. Raises OSError where it cannot."""
    key = (calibration.machine, calibration.backend)
    others = [entry for entry in _entries() if (entry.machine, entry.backend) != key]
    write_json(path(), {"calibrations": [msgspec.to_builtins(entry) for entry in (*others, calibration)]})
    return path()


def forget() -> bool:
    """Remove the file; whether there was one."""
    there = path().exists()
    path().unlink(missing_ok=True)
    return there
