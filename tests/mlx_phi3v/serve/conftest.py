"""One server for each backend, with the tiny model and a random one beside it."""

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


@pytest.fixture(scope="package", params=["mlx", "torch"])
def server(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    pytest.importorskip(request.param)
    corrections = tmp_path_factory.mktemp("served") / "corrections"
    config = ServeConfig(
        compare=str(checkpoint), backend=request.param, port=0, corrections=corrections, max_body_mb=2.0, max_new_tokens=128,
        dtype="float32",
    )  # fmt: skip
    with serving(config) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    yield from launched()
