"""A page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.page_example import CHROMIUM_FLAGS, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Seen:
    """What happened while a page was open."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.trouble: list[str] = []


def open_page(browser: Browser, page: Path | str, width: int, **options: Any) -> tuple[Page, Seen]:
    """The page in a tab of that width, and what happens in it."""
    tab, seen = browser.new_page(viewport={"width": width, "height": 900}, **options), Seen()
    tab.set_default_timeout(120_000)  # milliseconds: a busy machine is slow
    tab.on("request", lambda request: seen.requests.append(request.url))
    tab.on("console", lambda message: seen.trouble.append(message.text))
    tab.on("pageerror", lambda error: seen.trouble.append(str(error)))
    tab.on("dialog", lambda dialog: seen.trouble.append("dialog"))
    tab.goto(page.as_uri() if isinstance(page, Path) else page)
    return tab, seen


def launched() -> Iterator[Browser]:
    """Chromium, for a fixture; its tests are skipped where there is none."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: install chromium, Google Chrome or `playwright install chromium`")
    with playwright_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


def violations(tab: Page) -> list[tuple[str, str]]:
    """axe-core's findings: (rule, the first element)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found: list[dict[str, Any]] = axe.Axe().run(tab).response["violations"]
    return [(item["id"], item["nodes"][0]["html"]) for item in found]
