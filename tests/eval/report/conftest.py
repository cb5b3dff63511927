"""The example comparison, its page, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.compare.comparison import Comparison
from eval.report import page
from tests.helpers.browser import launched
from tests.helpers.page_example import example_comparison

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
    yield from launched()
