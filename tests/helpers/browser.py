"""A report page in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Seen:
    """What happened while a page was open."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.trouble: list[str] = []


def open_page(browser: Browser, report: Path, width: int, **options: Any) -> tuple[Page, Seen]:
    """The page in a tab of that width, and what happens in it."""
    tab, seen = browser.new_page(viewport={"width": width, "height": 900}, **options), Seen()
    tab.on("request", lambda request: seen.requests.append(request.url))
    tab.on("console", lambda message: seen.trouble.append(message.text))
    tab.on("pageerror", lambda error: seen.trouble.append(str(error)))
    tab.on("dialog", lambda dialog: seen.trouble.append("dialog"))
    tab.goto(report.as_uri())
    return tab, seen
