"""One server for each backend, with the tiny model and a random one beside it.

What does not depend on the backend is tested on MLX: `mlx_server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlx_phi3v.serve.settings import ServeConfig
from tests.helpers.browser import launched
from tests.helpers.serving import Serving, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def started(backend: str, checkpoint: Path, folder: Path) -> Iterator[Serving]:
    pytest.importorskip(backend)
    config = ServeConfig(
        compare=str(checkpoint), backend=backend, port=0, corrections=folder / "corrections", max_body_mb=2.0,
        max_new_tokens=32, dtype="float32",
    )  # fmt: skip
    with serving(config) as running:
        yield running


@pytest.fixture(scope="package")
def mlx_server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield from started("mlx", checkpoint, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="package")
def torch_server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    yield from started("torch", checkpoint, tmp_path_factory.mktemp("served"))


@pytest.fixture(params=["mlx", "torch"])
def server(request: pytest.FixtureRequest) -> Serving:
    running: Serving = request.getfixturevalue(f"{request.param}_server")
    return running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    yield from launched()
