"""The page on two ways to train: it fits a phone and a desk, and a screen reader can use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.compare.compare_sets import compare_sets
from eval.report.page.sets_page import write_sets_page
from mlx_phi3v.outputs import output_path
from tests.helpers.browser import open_page
from tests.helpers.trainings import base_rows, train

from .test_accessibility import violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def sets_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("sets"), base_rows(200)
    sides = train(folder, "x", (0.05, 0.1, 0.02), rows=rows), train(folder, "y", (0.1, 0.3, 0.2), rows=rows, backend="mlx")
    write_sets_page(folder / "report.html", compare_sets(*sides, resamples=20))
    return folder / "report.html"


def test_a_page_may_be_written_again(sets_report: Path) -> None:
    assert '<meta name="generator" content="mlx-phi3v">' in sets_report.read_text(encoding="utf-8")
    assert output_path(sets_report, "html", "--html") == sets_report


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_nothing_is_cut(browser: Browser, sets_report: Path, width: int, scheme: str) -> None:
    tab, seen = open_page(browser, sets_report, width, color_scheme=scheme)
    assert violations(tab) == [] and not seen.trouble
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_every_training_and_the_claim_are_shown(browser: Browser, sets_report: Path) -> None:
    tab, _ = open_page(browser, sets_report, 1280)
    text = tab.inner_text("body")
    for words in ("Claim: as good a training", "paired by seed (0, 1, 2)", "deviation from seed to seed", "x-0", "y-2"):
        assert words in text
    assert tab.locator("section[aria-labelledby=seeds] tbody tr").count() == 3
