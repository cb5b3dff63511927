"""What is installed and what it runs on. Neither framework is imported here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any

import psutil

from .. import __version__
from ..calibration import chip, cores
from ..redaction import redacted

MOST_BUSY = 0.2  # beyond it what is timed says little of the machine
PACKAGES = ("mlx", "mlx-vlm", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str | None]:
    """This project, Python and each package: its version, None where it is not installed."""
    found: dict[str, str | None] = {"mlx-phi3v": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """System, processor, cores, memory in GB, other work, and what the environment sets for the numerical libraries."""
    memory = psutil.virtual_memory()
    settings = {name: redacted(value) for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES)}
    return {
        "system": platform.platform(),
        "chip": chip(),
        "cores": cores(),
        "memory_gb": round(memory.total / 1e9, 2),
        "memory_free_gb": round(memory.available / 1e9, 2),
        "busy": busy(),
        "environment": settings,
    }


_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "VECLIB_", "MLX_", "CUBLAS_", "CUDA_VISIBLE", "PYTORCH_", "TORCH_")


def busy() -> float:
    """The share of all cores that other work takes now, 0 to 1; looked at for half a second."""
    return round(psutil.cpu_percent(interval=0.5) / 100, 2)


def installed_backends() -> list[str]:
    """The backends whose framework can be imported, the preferred one first."""
    return [name for name in ("mlx", "torch") if _importable(name)]


def _importable(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    needed = {"mlx": ("mlx",), "torch": ("torch", "transformers", "peft")}[name]
    return all(importlib.util.find_spec(package) is not None for package in needed)


def advice(found: dict[str, Any], missing: list[str]) -> list[str]:
    """What to change, a sentence each; `missing` are the backends that are not installed."""
    changes = [f"the {name} backend is not installed: pip install 'mlx-phi3v{_EXTRAS[name]}'" for name in missing]
    threads = found["environment"].get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) < found["cores"]:
        changes.append(f"OMP_NUM_THREADS is {threads}, of {found['cores']} cores: unset it to use them all")
    if found["busy"] > MOST_BUSY:
        changes.append(
            f"other work took {found['busy']:.0%} of the cores: speeds are too low and no calibration is stored; run it again "
            "when the machine is quiet"
        )
    if found["memory_free_gb"] < 4:
        changes.append(f"only {found['memory_free_gb']:g} GB of memory are free: end other programs before a training")
    return changes


_EXTRAS = {"mlx": "", "torch": "[torch]"}
