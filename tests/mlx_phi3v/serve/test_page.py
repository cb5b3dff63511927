"""The page in a real browser: photos come in by every way, answers are shown as text, and everything works by keyboard."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers.browser import Seen, open_page, violations
from tests.helpers.serving import Serving, data_url, png

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAME = '"><img src=x onerror=alert(1)>.png'
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
_FILE = """([kind, name, data]) => {
  const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


def opened(browser: Browser, mlx_server: Serving, width: int = 1280, **options: Any) -> tuple[Page, Seen]:
    tab, seen = open_page(browser, f"{mlx_server.base}/", width, **options)
    # Not by `wait_for_function`: but for its first look, the page's policy forbids that.
    tab.wait_for_selector("#served:has-text('mlx')")
    return tab, seen


def upload(tab: Page, photo: bytes, name: str = NAME) -> None:
    tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": photo})
    tab.wait_for_selector("#answers article")


def test_a_photo_is_read_by_both_models_and_shown_with_crops(browser: Browser, mlx_server: Serving) -> None:
    tab, seen = opened(browser, mlx_server)
    upload(tab, png(500, 200))
    assert tab.locator("#answers h3").all_inner_texts() == ["tiny", "model"]
    found = mlx_server.post("/page/read", {"photo": data_url(png(500, 200))}).json()["results"]
    values = tab.locator("#answers article").first.locator(".value").all_inner_texts()
    assert values[0] == found[0]["fields"][0]["value"] and values[2].endswith(" USD")
    sure = tab.locator("#answers article").first.locator(".sure").all_inner_texts()
    assert all(text.endswith("%") for text in sure) and len(sure) == 3
    other = found[1]["fields"]
    differing = [a["value"] != b["value"] for a, b in zip(found[0]["fields"], other)]
    assert tab.locator("#answers article").first.locator(".differs").count() == sum(differing)
    assert tab.get_attribute("#preview", "src") == found[0]["crops"]["whole"]
    sizes = tab.eval_on_selector_all("#crops img", "all => all.map(one => one.naturalWidth)")
    grids = {tuple(result["crops"]["grid"]) for result in found}
    assert sizes == [336] * sum(1 + (rows * columns if rows * columns > 1 else 0) for rows, columns in grids)
    tab.eval_on_selector_all("details", "items => items.forEach(item => { item.open = true; })")
    tab.locator("text=This is wrong").first.click()
    assert violations(tab) == []
    assert not seen.trouble and all(url.startswith((mlx_server.base, "data:", "blob:")) for url in seen.requests)
    tab.close()


def test_a_photo_is_dropped_or_pasted(browser: Browser, mlx_server: Serving) -> None:
    tab, seen = opened(browser, mlx_server)
    for kind in ("drop", "paste"):
        tab.evaluate(_FILE, [kind, "photo.png", base64.b64encode(png()).decode()])
        tab.wait_for_selector("#answers article")
        tab.evaluate("document.getElementById('answers').replaceChildren()")
    assert not seen.trouble
    tab.close()


def test_a_bad_photo_is_one_sentence_and_the_next_one_is_read(browser: Browser, mlx_server: Serving) -> None:
    tab, _ = opened(browser, mlx_server)
    tab.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no photo"})
    tab.wait_for_selector("#trouble:not(:empty)")
    assert "not a photo that can be read" in tab.inner_text("#trouble") and not tab.is_visible("#shown")
    assert violations(tab) == []
    tab.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": bytes(3_000_000)})
    tab.wait_for_selector("#trouble:has-text('3.0 MB')")
    upload(tab, png())
    assert tab.inner_text("#trouble") == "" and tab.evaluate("document.activeElement.id") == "answers-title"
    tab.close()


def test_text_from_outside_is_shown_as_text(browser: Browser, mlx_server: Serving) -> None:
    tab, seen = opened(browser, mlx_server)
    found = mlx_server.post("/page/read", {"photo": data_url(png())}).json()
    for result in found["results"]:
        result["fields"][0]["value"] = HOSTILE
        result["tokens"] = [[HOSTILE, 0.4], ["x", 0.7]]
    tab.route("**/page/read", lambda route: route.fulfill(json=found))
    upload(tab, png())
    assert tab.locator("#answers .value").first.inner_text() == HOSTILE
    assert tab.title() == "Drop a photo" and tab.locator("#answers img, #answers script").count() == 0 and not seen.trouble
    tab.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'document.title = 1' }))")
    assert tab.title() == "Drop a photo" and "Content Security Policy" in seen.trouble[0]
    tab.close()


def test_a_phone_shows_all_of_it(browser: Browser, mlx_server: Serving) -> None:
    tab, seen = opened(browser, mlx_server, 390, has_touch=True, is_mobile=True, color_scheme="dark")
    upload(tab, png(200, 500))
    tab.locator("text=This is wrong").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    heights = tab.eval_on_selector_all(
        "button, summary, input:not([hidden])", "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(heights) >= 44 and not seen.trouble and violations(tab) == []
    assert tab.get_attribute("#camera", "capture") == "environment"
    tab.close()


def press_until(tab: Page, condition: str) -> None:
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate(condition):
            return
    raise AssertionError(f"the keyboard does not reach {condition}")


def test_a_row_is_corrected_by_the_keyboard_alone(browser: Browser, mlx_server: Serving) -> None:
    folder = mlx_server.config.corrections
    assert folder is not None
    shutil.rmtree(folder, ignore_errors=True)
    tab, seen = opened(browser, mlx_server)
    press_until(tab, "document.activeElement.id === 'choose'")
    assert tab.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2")
    # The browser's own dialog does not always open where there is no screen: it is enough that it is asked for.
    tab.evaluate(
        "document.getElementById('file').addEventListener('click', (event) => { event.preventDefault(); "
        "document.body.dataset.asked = 'yes'; })"
    )
    tab.keyboard.press("Enter")
    tab.wait_for_selector("body[data-asked]")
    tab.set_input_files("#file", {"name": NAME, "mimeType": "image/png", "buffer": png(seed=9)})
    tab.wait_for_selector("#answers article")
    press_until(tab, "document.activeElement.className === 'wrong'")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.name") == "title"
    tab.keyboard.press("ControlOrMeta+a")
    tab.keyboard.type("Blue hat")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("ControlOrMeta+a")
    tab.keyboard.type("12,5")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#saved.bad")
    assert "write a number such as 1250.50" in tab.inner_text("#saved") and not Path(folder).exists()
    tab.keyboard.press("ControlOrMeta+a")
    tab.keyboard.type("12.5")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#saved:not(.bad):not(:empty)")
    row = json.loads((folder / "metadata.jsonl").read_text())
    assert (row["title"], row["full_price"], row["_model"]) == ("Blue hat", 12.5, "tiny")
    assert (folder / row["file_name"]).read_bytes() == png(seed=9)
    assert [text for text in seen.trouble if "400" not in text] == []  # the browser reports the refused request itself
    tab.close()
