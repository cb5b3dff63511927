"""The example comparison, its page, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.compare.comparison import Comparison
from eval.report import page
from tests.helpers.page_example import CHROMIUM_FLAGS, chromium, example_comparison

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return example_comparison(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="package")
def report(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write_page(path, comparison)
    return path


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    playwright_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: install chromium, Google Chrome or `playwright install chromium`")
    with playwright_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()
