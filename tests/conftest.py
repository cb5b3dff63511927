"""Fixtures that several tests share, and how many threads the numerical libraries take."""

# ruff: noqa: E402 (thread counts are read when numpy, mlx and torch load)
from __future__ import annotations

import os
import sys

# The tests' matrices are small, and several workers may share few cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if sys.platform == "darwin":
    os.environ.setdefault("MLX_PHI3V_TORCH_DEVICE", "cpu")  # the reference; torch's mps was never tried
# What was measured and checked on this machine is not to change estimates and loads; root could make any other folder.
os.environ["MLX_PHI3V_CACHE"] = os.path.join(os.devnull, "none")

import random
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.internal.conjecture import providers

from mlx_phi3v.backend import set_up
from tests.helpers.catalogue import write_catalogue
from tests.helpers.checkpoint import Shape, write_checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.wheel import Installed, installed_once

if TYPE_CHECKING:
    from mlx_phi3v.backend import Backend

# A shell's background job ignores Ctrl-C, and nohup's SIGHUP, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

set_up("mlx")  # before a test imports mlx: it imports neither framework

# How long an example takes says nothing on a busy machine, and a fixture of pytest's is the same for every example.
# Failing examples of another day are not tried first. hypothesis has a profile of its own where it sees a CI service:
# with `derandomize` it would draw other numbers there.
settings.register_profile(
    "seeded", deadline=None, database=None, derandomize=False, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("seeded")
# Nor does it draw numbers that stand in the modules loaded so far: which ones are is a matter of the workers' timing.
providers._get_local_constants = lambda: providers._local_constants

# Every number that a test draws follows from it: `TEST_SEED=7 pytest -m numeric` tries others.
TEST_SEED = int(os.environ.get("TEST_SEED", "0"))
# With `--dist loadfile`, a long file that begins at the end leaves the other worker idle.
_LONGEST = (
    "fuzz/test_fuzz.py",
    "mlx_phi3v/training/test_train.py",
    "eval/test_pipeline.py",
    "mlx_phi3v/training/test_several_ranks.py",
    "eval/test_demo.py",
    "data/ingest/test_sources.py",
    "eval/report/test_accessibility.py",
    "eval/compare/test_statistics.py",
    "eval/parity/test_parity.py",
    "test_commands.py",
    "test_interrupts.py",
    "test_kills.py",
    "test_errors.py",
    "test_recorded.py",
)
# `HYPOTHESIS_TIMES=10 pytest -m hypothesis` tries ten times the examples of each property.
HYPOTHESIS_TIMES = int(os.environ.get("HYPOTHESIS_TIMES", "1"))


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads it
def pytest_configure(config: pytest.Config) -> None:
    """hypothesis draws from TEST_SEED too, where the command line names no --hypothesis-seed."""
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(TEST_SEED)
    if hasattr(config.option, "loadscopereorder"):  # of xdist, which would begin with the files of most tests
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, and multiply the examples of each property test by HYPOTHESIS_TIMES."""
    last = len(_LONGEST)
    places = {ROOT / "tests" / name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, last))
    for test in {item.obj for item in items if HYPOTHESIS_TIMES > 1 and isinstance(item, pytest.Function)}:
        if is_hypothesis_test(test):
            used: settings = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = settings(used, max_examples=used.max_examples * HYPOTHESIS_TIMES)


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


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(hidden=64, ..., seed=0): a checkpoint of that shape, written once."""
    made: dict[tuple[Shape, int], Path] = {}

    def make(seed: int = 0, **shape: Any) -> Path:
        key = (Shape(**shape), seed)
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
