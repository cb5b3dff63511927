"""Fixtures that several tests share, and how many threads the numerical libraries take."""

# ruff: noqa: E402 (thread counts are read when numpy, mlx and torch load)
from __future__ import annotations

import os

# The tests' matrices are small, and several workers may share few cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import importlib.util
import io
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from checkpoint import Shape, write_checkpoint
from hypothesis import settings
from PIL import Image

if importlib.util.find_spec("mlx"):
    # Before a test imports mlx.core: on Linux it loads the BLAS that MLX's products use outside the tests too.
    import mlx_phi3v.backend_mlx  # noqa: F401
from data.catalogue import CatalogueWriter
from mlx_phi3v.task import Task

if TYPE_CHECKING:
    from mlx_phi3v.backend import Backend

# How long an example takes says nothing on a busy machine. Failing examples of another day are not tried first.
settings.register_profile("unhurried", deadline=None, database=None)
settings.load_profile("unhurried")

# Every number that a test draws follows from it: `TEST_SEED=7 pytest -m numeric` tries others.
TEST_SEED = int(os.environ.get("TEST_SEED", "0"))

# Width x height of the shared catalogue's pictures: several crop counts, portrait and landscape; two and none in a row.
_SIZES = (((300, 300),), ((500, 200),), ((160, 420),), ((300, 310), (90, 60)), (), ((64, 64),))


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads it
def pytest_configure(config: pytest.Config) -> None:
    """hypothesis draws from TEST_SEED too, where the command line names no --hypothesis-seed."""
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(TEST_SEED)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed every generator that is there. mlx and torch are not imported for it: a test of one never loads the other.

    A test that imports its framework in its body draws from `rng` instead.
    """
    random.seed(TEST_SEED)
    np.random.seed(TEST_SEED)
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].random.seed(TEST_SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(TEST_SEED)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test, whatever ran before it."""
    return np.random.default_rng([TEST_SEED, zlib.crc32(request.node.name.encode())])


def random_picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth coloured noise, so that resizing leaves something to see."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def write_catalogue(folder: Path, rows: dict[str, int], sizes: tuple = _SIZES) -> Path:
    """A catalogue with that many rows per split, made without data.sample; the folder."""
    with CatalogueWriter(folder, Task(), name="test", source={}, settings={}) as writer:
        for split, count in rows.items():
            for i in range(count):
                images = []
                for k, (width, height) in enumerate(sizes[i % len(sizes)]):
                    buffer = io.BytesIO()
                    random_picture(width, height, seed=100 * i + k).save(buffer, "PNG")
                    images.append(writer.add_image(buffer.getvalue(), ".png"))
                row = {"id": f"{split}-{i}", "images": images, "title": f"Wool scarf {i}" + " striped" * (i % 3)}
                row |= {"category3_code": ("SCARVES", "BAGS")[i % 2], "full_price": 100.0 + i if i % 4 != 3 else None}
                writer.add(split, row)
    return folder


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
