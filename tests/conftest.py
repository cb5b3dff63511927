"""Fixtures that several tests share, and how many threads the numerical libraries take."""

# ruff: noqa: E402 (thread counts are read when numpy, mlx and torch load)
from __future__ import annotations

import os

# The tests' matrices are small, and several workers may share few cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from mlx_phi3v.backend import set_up
from tests.helpers.catalogue import write_catalogue
from tests.helpers.checkpoint import Shape, write_checkpoint
from tests.helpers.wheel import Installed, installed_once

if TYPE_CHECKING:
    from mlx_phi3v.backend import Backend

set_up("mlx")  # before a test imports mlx: it imports neither framework

# How long an example takes says nothing on a busy machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(hidden=64, ..., seed=0): a checkpoint of that shape, written once."""
    made: dict[tuple[Shape, int], Path] = {}

    def make(seed: int = 0, **shape: object) -> Path:
        key = (Shape(**shape), seed)  # type: ignore[arg-type]
        if key not in made:
            made[key] = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """The default small checkpoint."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 rows to train on, 3 to validate, 4 to test; see `_SIZES`."""
    return write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", {"train": 12, "validation": 3, "test": 4})


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of this checkout, installed away from it; built once."""
    return installed_once(tmp_path_factory)


@pytest.fixture(params=["mlx", "torch"])
def backend_name(request: pytest.FixtureRequest) -> str:
    """Both backends, one after the other."""
    name: str = request.param
    pytest.importorskip(name)
    return name


@pytest.fixture
def load(backend_name: str) -> Callable[[Path], Backend]:
    """load(folder): the model in fp32 on the backend of this test."""
    from mlx_phi3v.backend import load_backend

    return lambda folder: load_backend(backend_name, folder, dtype="float32")
