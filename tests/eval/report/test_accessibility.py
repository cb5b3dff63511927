"""The page without a mouse and for a screen reader: axe-core finds nothing, the keyboard reaches and operates everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from eval.compare.compare_runs import compare_runs
from eval.compare.compare_sets import compare_sets
from eval.compare.comparison import Comparison
from eval.report import page
from eval.report.page.sets_page import write_sets_page
from eval.runs.import_config import ImportConfig
from eval.runs.imported import import_run
from tests.helpers.browser import open_page, violations
from tests.helpers.harness_logs import generated, write_lines
from tests.helpers.synthetic_runs import make_rows, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_OPEN = "items => items.forEach(item => { item.open = true; })"
_CONTROLS = """() => [...document.querySelectorAll('a[href], button, select, summary, input, [tabindex="0"]')]
  .filter(item => item.checkVisibility() && !item.closest('[hidden]'))
  .forEach((item, i) => { item.dataset.control = i; })
  || document.querySelectorAll('[data-control]').length"""
_FOCUSED = """() => { const item = document.activeElement, style = getComputedStyle(item), box = item.getBoundingClientRect();
  return [item.dataset.control ?? null, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
          box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth]; }"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_no_violation(browser: Browser, report: Path, width: int, scheme: str) -> None:
    tab, _ = open_page(browser, report, width, color_scheme=scheme)
    assert violations(tab) == []
    tab.eval_on_selector_all("details", _OPEN)
    tab.click("a[data-cell]")
    assert violations(tab) == []


def test_axe_would_find_one(browser: Browser, report: Path) -> None:
    tab, _ = open_page(browser, report, 1280)
    tab.evaluate("document.querySelectorAll('label').forEach(item => item.replaceWith(...item.querySelectorAll('select')))")
    assert "select-name" in {rule for rule, _ in violations(tab)}


def test_the_page_of_a_harness_log_has_no_violation_and_shows_what_was_asked(browser: Browser, tmp_path: Path) -> None:
    right = np.arange(300) % 3 > 0
    runs = []
    for name, lost in (("a", 0), ("b", 20)):
        lines = [generated(i, bool(right[i]) and i >= lost) for i in range(300)]
        runs.append(import_run(ImportConfig(write_lines(tmp_path / f"{name}.jsonl", lines), output=tmp_path / name)))
    page.write_page(tmp_path / "report.html", compare_runs(*runs, resamples=20))
    tab, seen = open_page(browser, tmp_path / "report.html", 390)
    assert violations(tab) == [] and not seen.trouble
    shown = tab.inner_text("#list li:first-child")
    assert "target" in shown and "document" not in shown and "I think it is" in shown


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_of_two_ways_to_train_has_no_violation(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    sides = [
        [write_run(tmp_path / f"{side}{k}", make_rows(100), hashes={"adapter": f"{side}{k}"}) for k in range(3)]
        for side in "ab"
    ]
    write_sets_page(tmp_path / "report.html", compare_sets(*sides, resamples=20))
    tab, seen = open_page(browser, tmp_path / "report.html", width, color_scheme=scheme)
    assert violations(tab) == [] and not seen.trouble
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(browser: Browser, report: Path) -> None:
    tab, _ = open_page(browser, report, 1280)
    tab.eval_on_selector_all("details", _OPEN)
    count = tab.evaluate(_CONTROLS)
    reached, unseen = set(), []
    for _ in range(count + 5):
        tab.keyboard.press("Tab")
        control, outlined, inside = tab.evaluate(_FOCUSED)
        if control is not None:
            reached.add(int(control))
            if not (outlined and inside):
                unseen.append(control)
    assert count > 20 and reached == set(range(count)) and not unseen


def test_a_number_of_the_confusion_shows_its_rows_and_the_way_back(
    browser: Browser, report: Path, comparison: Comparison
) -> None:
    tab, seen = open_page(browser, report, 1280)
    everything = tab.locator("#list > li:visible").count()
    cell = next(cell for cell in comparison.error_places.confusion[0].cells if cell.change > 0)
    link = tab.locator(f'a[data-cell="category3_code: {cell.true} answered {cell.predicted}"]')
    assert link.inner_text() == f"+{cell.change}"
    link.focus()
    tab.keyboard.press("Enter")
    shown = tab.locator("#list > li:visible")
    names = {text.split()[0] for text in shown.locator("h3").all_inner_texts()}
    assert names == {*cell.gained, *cell.lost} and tab.evaluate("document.activeElement.id") == "rows"
    assert f"{cell.true} answered {cell.predicted}" in tab.inner_text("#shown")
    while tab.evaluate("document.activeElement.id") != "every":
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert shown.count() == everything and not tab.locator("#every").is_visible() and not seen.trouble


def test_without_script_a_number_leads_to_the_first_of_its_rows(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    link = tab.locator("a[data-cell]").first
    target = tab.locator(str(link.get_attribute("href")))
    assert link.get_attribute("data-cell") in json.loads(str(target.get_attribute("data-cells")))
    context.close()


def test_a_summary_opens_by_the_keyboard_and_the_rows_can_be_skipped_to(browser: Browser, report: Path) -> None:
    tab, _ = open_page(browser, report, 1280)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "rows"
    summary = tab.locator("summary").first
    summary.focus()
    tab.keyboard.press("Space")
    assert tab.evaluate("document.querySelector('details').open")
