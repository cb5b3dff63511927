"""What checks cost while loading: finite weights, and the checksum of cached features; with and without, in turn.

    python scripts/measure/measure_checks.py weights --model CHECKPOINT --backend mlx
    python scripts/measure/measure_checks.py weights --model CHECKPOINT --cold
    python scripts/measure/measure_checks.py features

Each round loads once without the check and once with it, in changing order. The ratio is that of the fastest loads: a
busy machine only ever adds to them. `--cold` asks the system to forget the files before each load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mlx_phi3v.backend import load_backend
from mlx_phi3v.checkpoint.finite import FiniteCheck
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.training.feature_file import FeatureFolder

CROPS, PATCHES, WIDTH = 16, 144, 3072  # of the published model


@contextlib.contextmanager
def without_checks() -> Iterator[None]:
    """No number and no checksum is looked at."""
    with (
        mock.patch.object(FiniteCheck, "add", lambda *arguments: None),
        mock.patch.object(FeatureFolder, "_metadata", lambda *arguments: {}),
        mock.patch("mlx_phi3v.training.feature_file.np.isfinite", lambda array: np.True_),
    ):
        yield


def compare(load: Callable[[], Any], before: Callable[[], None], rounds: int) -> dict[str, float]:
    """Seconds of the fastest load without and with the checks, and their ratio."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for checked in (False, True) if number % 2 else (True, False):
            before()
            with contextlib.nullcontext() if checked else without_checks():
                started = time.perf_counter()
                load()
                seconds[checked].append(time.perf_counter() - started)
    plain, checked_seconds = min(seconds[False]), min(seconds[True])
    return {"without": round(plain, 4), "with": round(checked_seconds, 4), "ratio": round(checked_seconds / plain, 4)}


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop the files from its page cache (Linux)."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weights(model: str, backend: str, cold: bool, rounds: int) -> dict[str, Any]:
    """Load a checkpoint."""
    folder = resolve_model(model)
    files = sorted(folder.glob("*.safetensors"))
    load_backend(backend, folder)  # imports the framework, and fills the page cache
    found = compare(lambda: load_backend(backend, folder), lambda: forget(files) if cold else None, rounds)
    return {"backend": backend, "cold": cold, "gb": sum(path.stat().st_size for path in files) / 1e9, **found}


def features(rounds: int) -> dict[str, Any]:
    """Read a photo's features, bf16, of the published width."""
    values = np.random.default_rng(0).standard_normal(((CROPS + 1) * PATCHES + 2, WIDTH), dtype=np.float32)
    with tempfile.TemporaryDirectory() as temporary, mock.patch.object(FeatureFolder, "_metadata", lambda *_: {}):
        unsigned = FeatureFolder(Path(temporary) / "unsigned", "bfloat16", CROPS, PATCHES, WIDTH).open()
        unsigned.write("a" * 64, values, (4, 4))
        with mock.patch.object(FeatureFolder, "_metadata", _METADATA):
            signed = FeatureFolder(Path(temporary) / "signed", "bfloat16", CROPS, PATCHES, WIDTH).open()
            size = signed.write("a" * 64, values, (4, 4))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * rounds):
            checked = number % 2 == 0
            with mock.patch.object(FeatureFolder, "_metadata", _METADATA) if checked else without_checks():
                started = time.perf_counter()
                found = (signed if checked else unsigned).read("a" * 64)
                seconds[checked].append(time.perf_counter() - started)
            assert found is not None
    plain, whole = min(seconds[False]), min(seconds[True])
    return {"mb": round(size / 1e6, 1), "without": round(plain, 5), "with": round(whole, 5), "ratio": round(whole / plain, 3)}


_METADATA = FeatureFolder._metadata


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("weights", "features"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--backend", default="mlx", choices=("mlx", "torch"))
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    if chosen.what == "features":
        print(json.dumps(features(chosen.rounds)))
    else:
        print(json.dumps(weights(chosen.model, chosen.backend, chosen.cold, chosen.rounds)))


if __name__ == "__main__":
    main()
