"""What checks cost while loading: finite weights, and the checksum of cached features; with and without, in turn.

    python scripts/measure/measure_checks.py weights --model CHECKPOINT --backend mlx
    python scripts/measure/measure_checks.py weights --model CHECKPOINT --cold
    python scripts/measure/measure_checks.py features

Each round loads without the check of the weights, with it ("first"), and where the files were found finite before ("again"),
in changing order: to the loaded model ("load"), and to the first token of an answer to 16 tokens ("token"), which reads what a
load only mapped. The ratios are those of the fastest to the fastest without: a busy machine only ever adds to them. `--cold`
asks the system to forget the files before each load.
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

from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import Example
from mlx_phi3v.checkpoint import checked_files
from mlx_phi3v.checkpoint.finite import FiniteCheck
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.decoding import generate
from mlx_phi3v.training.feature_file import FeatureFolder

CROPS, PATCHES, WIDTH = 16, 144, 3072  # of the published model
IDS = np.full(16, 5, np.int64)


def _nothing(*arguments: Any) -> None:
    pass


@contextlib.contextmanager
def without_checks() -> Iterator[None]:
    """No number and no checksum is looked at."""
    with (
        mock.patch.multiple(FiniteCheck, __init__=_nothing, add=_nothing, __exit__=_nothing),
        mock.patch.object(FeatureFolder, "_metadata", lambda *arguments: {}),
        mock.patch("mlx_phi3v.training.feature_file.np.isfinite", lambda array: np.True_),
    ):
        yield


WAYS = ("without", "first", "again")


def compare(load_once: Callable[[], Backend], before: Callable[[], None], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of the fastest of each way, to the loaded model and to the first token, and their ratios."""
    load: dict[str, list[float]] = {way: [] for way in WAYS}
    token: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        turned = (*WAYS[number % 3 :], *WAYS[: number % 3])
        for way in turned if number % 2 else reversed(turned):
            if way == "first":
                checked_files.path().unlink(missing_ok=True)
            elif way == "again" and not checked_files.path().exists():
                load_once()
            before()
            with without_checks() if way == "without" else contextlib.nullcontext():
                started = time.perf_counter()
                backend = load_once()
                load[way].append(time.perf_counter() - started)
                generate(backend, [Example("row", IDS, np.full_like(IDS, -100), ())], max_new_tokens=1, stop_ids=())
                token[way].append(time.perf_counter() - started)
            del backend
    return {"load": _figures(load), "token": _figures(token)}


def _figures(seconds: dict[str, list[float]]) -> dict[str, float]:
    best = {way: min(found) for way, found in seconds.items()}
    ratios = {f"{way} / without": round(best[way] / best["without"], 4) for way in WAYS[1:]}
    return {way: round(value, 4) for way, value in best.items()} | ratios


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop the files from its page cache (Linux)."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weights(model: str, backend: str, dtype: str | None, cold: bool, rounds: int) -> dict[str, Any]:
    """Load a checkpoint. Raises SystemExit where its files were written within seconds: they get no entry."""
    folder = resolve_model(model)
    files = sorted(folder.glob("*.safetensors"))
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"MLX_PHI3V_CACHE": cache}):
        computed = load_backend(backend, folder, dtype=dtype).dtype  # imports the framework, and fills the page cache
        if not checked_files.path().exists():
            raise SystemExit("the files are too new to be remembered; start again in some seconds")
        found = compare(lambda: load_backend(backend, folder, dtype=dtype), lambda: forget(files) if cold else None, rounds)
    return {
        "backend": backend,
        "dtype": computed,
        "cold": cold,
        "gb": sum(path.stat().st_size for path in files) / 1e9,
        **found,
    }


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
    parser.add_argument("--dtype", help="by default the backend's")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    if chosen.what == "features":
        print(json.dumps(features(chosen.rounds)))
    else:
        print(json.dumps(weights(chosen.model, chosen.backend, chosen.dtype, chosen.cold, chosen.rounds)))


if __name__ == "__main__":
    main()
