"""The page in a real browser: filters work, nothing is fetched, answers show as text, it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.own_photos import own_photo
from eval.report import page
from eval.report.page.charts import interval_bar
from eval.report.page.rows import pick_rows, split_answers
from mlx_phi3v.photo import thumbnail
from tests.helpers.browser import open_page
from tests.helpers.page_example import example_comparison
from tests.helpers.synthetic_runs import answer, changed, make_rows, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def visible(tab: Page) -> list[dict[str, str]]:
    script = "rows => rows.filter(row => row.offsetParent).map(row => ({...row.dataset}))"
    found: list[dict[str, str]] = tab.eval_on_selector_all("#list > li", script)
    return found


def test_filters_show_just_the_rows_they_name(browser: Browser, report: Path, comparison: Comparison) -> None:
    tab, seen = open_page(browser, report, 1280)
    everything = visible(tab)
    assert len(everything) > 50
    for name, key in (("outcome", "outcome"), ("category", "category"), ("cause", "cause")):
        options = tab.eval_on_selector_all(f"#{name} option", "items => items.map(item => item.value)")
        assert len(options) > 2
        for value in filter(None, options):
            tab.select_option(f"#{name}", value)
            expected = [row for row in everything if row[key] == value]
            assert visible(tab) == expected
            assert tab.inner_text("#shown").startswith(f"{len(expected)} of {len(everything)}")
        tab.select_option(f"#{name}", "")
    tab.select_option("#outcome", "only A")
    tab.select_option("#cause", "near-tie")
    both = [row for row in everything if (row["outcome"], row["cause"]) == ("only A", "near-tie")]
    assert visible(tab) == both and 0 < len(both) < len(everything)
    assert {row["outcome"] for row in everything} == {name for name, n in comparison.outcomes.items() if n}
    assert not seen.trouble


def test_nothing_is_fetched_and_the_console_stays_empty(browser: Browser, report: Path) -> None:
    _, seen = open_page(browser, report, 1280)
    assert [url for url in seen.requests if not url.startswith("data:")] == [report.as_uri()]
    assert not seen.trouble


def test_an_answer_cannot_run_or_style_anything(browser: Browser, report: Path) -> None:
    tab, seen = open_page(browser, report, 1280)
    text = tab.inner_text("#list")
    assert "<script>document.title = 'owned'</script>" in text
    assert "[bold]wool[/bold]" in text and "[bold red]silk[/bold red]" in text
    assert tab.title() != "owned"
    assert tab.eval_on_selector_all("#list script, #list img[onerror]", "items => items.length") == 0
    assert not seen.trouble


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk_in_both_schemes(browser: Browser, report: Path, width: int, scheme: str) -> None:
    tab, _ = open_page(browser, report, width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (brightness < 60) if scheme == "dark" else (brightness > 200)
    assert tab.eval_on_selector_all("#list img", "items => items.every(item => item.complete && item.naturalWidth > 0)")


def test_the_keyboard_reaches_the_filters_and_a_reader_hears_names(browser: Browser, report: Path) -> None:
    tab, _ = open_page(browser, report, 1280)
    reached = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"outcome", "category", "cause", "SUMMARY"} <= reached
    tab.focus("#outcome")
    tab.keyboard.press("ArrowDown")
    assert tab.eval_on_selector("#outcome", "item => item.value") == "both right"
    assert all(row["outcome"] == "both right" for row in visible(tab))
    script = """() => [...document.querySelectorAll('select')].every(item => item.labels.length)
        && [...document.querySelectorAll('img')].every(item => item.alt)
        && [...document.querySelectorAll('svg')].every(item => item.getAttribute('aria-hidden') || item.querySelector('title'))
        && document.querySelectorAll('h1').length === 1 && document.documentElement.lang === 'en'"""
    assert tab.evaluate(script)


def test_contrast_is_readable_in_both_schemes(browser: Browser, report: Path) -> None:
    # WCAG 2.1 relative luminance; 4.5 to 1 is its AA limit for text.
    script = """() => {
      const parse = c => c.match(/[\\d.]+/g).map(Number);
      const lum = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = item => { for (; item; item = item.parentElement) {
        const c = parse(getComputedStyle(item).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } };
      return [...document.querySelectorAll('h1, h2, h3, p, dt, dd, th, td, summary, li .state, mark, .tag, .key')]
        .filter(item => item.offsetParent && item.textContent.trim()).map(item => {
          const [a, b] = [lum(parse(getComputedStyle(item).color)), lum(ground(item))].sort((x, y) => y - x);
          return [(a + .05) / (b + .05), item.tagName + '.' + item.className]; }).sort((x, y) => x[0] - y[0])[0]; }"""
    for scheme in ("light", "dark"):
        tab, _ = open_page(browser, report, 1280, color_scheme=scheme)
        ratio, where = tab.evaluate(script)
        assert ratio >= 4.5, (scheme, where, ratio)


def test_without_script_every_row_is_shown(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator("#list > li").last.is_visible() and not tab.locator("#filters").is_visible()
    context.close()


def test_the_page_is_bounded_whatever_the_answers(tmp_path: Path) -> None:
    rows = make_rows(400)
    others = changed(rows, lambda i, row: i % 2 == 0, lambda row: answer(row, "Product: " + "very long " * 100))
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", others), resamples=50)
    page.write_page(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text()
    assert len(text) < 1_500_000 and "more characters" in text
    assert f"{len(found.diverged):,}" in text


def test_the_differing_word_is_marked_and_an_early_end_too() -> None:
    a, b = split_answers("Category: BAGS, Price: 1", "Category: BATS, Price: 1", True, False)
    assert (a.alike, a.first, b.first) == ("Category: ", "BAGS,", "BATS,")
    a, b = split_answers("one", "one two", True, True)
    assert a.alike + a.first + a.rest != b.alike + b.first + b.rest and "two" in b.first + b.rest
    a, _ = split_answers("same", "same", True, True)
    assert a.first == ""


def test_an_unreadable_photo_leaves_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "corrupt.png").write_bytes(b"not a picture")
    assert thumbnail(str(tmp_path / "corrupt.png"), 96) is None
    assert thumbnail(str(tmp_path / "missing.png"), 96) is None and thumbnail("a\0b", 96) is None


def test_a_page_takes_photos_of_the_run_and_of_its_catalogue_and_no_others(tmp_path: Path) -> None:
    shop, secret = tmp_path / "shop", tmp_path / "secret.png"
    shop.mkdir()
    run = write_run(tmp_path / "run", make_rows(2), catalogue=str(shop))
    (shop / "link.png").symlink_to(secret)
    for path in (shop / "a.png", tmp_path / "run" / "a.png", secret):
        path.write_bytes(b"")
    assert own_photo(run, str(shop / "a.png")) is None  # a folder that is no catalogue, such as a home
    (shop / "catalogue.json").write_text("{}")
    assert own_photo(run, str(shop / "a.png")) == shop / "a.png"
    assert own_photo(run, str(tmp_path / "run" / "a.png")) == tmp_path / "run" / "a.png"
    for name in (secret, shop / "link.png", shop / ".." / "secret.png", "/etc/passwd", "a\0b", "x" * 5000, "", None, 5):
        assert own_photo(run, name if name is None or isinstance(name, int) else str(name)) is None  # type: ignore[arg-type]


def test_no_tick_lies_under_an_axis_name(browser: Browser, report: Path) -> None:
    script = """() => [...document.querySelectorAll('svg.scatter')].flatMap(drawing => {
      const texts = [...drawing.querySelectorAll('text')].map(item => [item, item.getBoundingClientRect()]);
      const names = texts.filter(([item]) => /^[a-zA-Z ]+$/.test(item.textContent));
      const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
      return names.flatMap(([name, a]) => texts.filter(([item, b]) => item !== name && meet(a, b)))
        .map(([item]) => item.textContent); })"""
    for width in (390, 1280):
        tab, _ = open_page(browser, report, width)
        tab.eval_on_selector_all("details", "items => items.forEach(item => { item.open = true; })")
        assert tab.locator("svg.scatter").count() == 6 and tab.evaluate(script) == []


def test_over_a_margin_the_interval_that_is_judged_is_drawn(comparison: Comparison) -> None:
    gate = next(gate for gate in comparison.gates if gate.metric == "accuracy")
    row = next(row for row in comparison.metrics if row.metric == "accuracy")
    drawn = interval_bar(row, 0.2, gate)
    low, high = gate.beyond if gate.state in ("worse", "better") else gate.interval
    assert f'x1="{100 + 500 * low:.1f}" x2="{100 + 500 * high:.1f}"' in drawn and 'class="margin"' in drawn
    assert row.interval[0] is not None and f'x1="{100 + 500 * row.interval[0]:.1f}"' in interval_bar(row, 0.2)


def test_a_photo_that_only_b_has_here_is_shown(tmp_path: Path) -> None:
    example = example_comparison(tmp_path, rows=40)
    reference = [row.to_dict() for row in example.data.run_a.rows]
    for row in reference:
        row["image"] = "/elsewhere/catalogue/" + Path(row["image"]).name
    hashes = example.data.run_a.manifest["hashes"]
    moved = write_run(tmp_path / "moved", reference, catalogue="/elsewhere/catalogue", hashes=hashes)
    for a, b in ((moved, example.data.run_b), (example.data.run_b, moved)):
        found = compare_runs(a, b, resamples=20, allow=("truth",))
        rows = pick_rows(found, worst=10, sampled=10, seed=0)
        assert rows and all(row.thumbnail for row in rows)
