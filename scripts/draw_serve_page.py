"""Draw docs/serve-390.png and docs/serve-1280.png: the page with a drawn product, the built-in model and its 4-bit form.

    python scripts/draw_serve_page.py

It needs Chromium or Chrome and playwright. Times on the picture are those of the machine that drew it.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from mlx_phi3v.commands import child_command, child_environment

ROOT = Path(__file__).resolve().parents[1]
_HEIGHTS = {390: 1560, 1280: 1240}
_COLOURS = 128  # of the stored pictures, so that they stay small


def run(module: str, *arguments: object) -> None:
    """One of our commands."""
    subprocess.run([*child_command(module), *map(str, arguments)], env=child_environment(), check=True)


def draw(folder: Path, address: str, photo: Path) -> None:
    """The page after that photo was chosen, at phone and desk width."""
    from playwright.sync_api import sync_playwright

    from tests.helpers.page_example import CHROMIUM_FLAGS, chromium

    program = chromium()
    if program is None:
        raise SystemExit("no Chromium on this machine: install chromium or Google Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        for width, height in _HEIGHTS.items():
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            tab.goto(address)
            tab.set_input_files("#file", photo)
            tab.wait_for_selector("#answers article")
            tab.locator("summary").first.click()
            tab.locator("text=This is wrong").first.click()
            tab.evaluate("document.activeElement.blur()")
            clip = {"x": 0, "y": 0, "width": width, "height": height}
            shot = tab.screenshot(clip=clip, full_page=True)  # type: ignore[arg-type]
            picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
            picture.save(folder / f"serve-{width}.png", optimize=True)
        browser.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run("data.sample", "--output", work / "catalogue", "--products", 10, "--validation", 1, "--test", 1, "--processes", 1)
        run("mlx_phi3v.convert", "--hf-path", "tiny", "--mlx-path", work / "tiny-4bit", "-q", "--q-group-size", 32)
        photo = max((work / "catalogue").rglob("*.jpg"), key=lambda path: path.stat().st_size)
        flags = ["--compare", str(work / "tiny-4bit"), "--port", "0", "--json", "--corrections", str(work / "corrections")]
        line = [*child_command("mlx_phi3v.serve"), *flags]
        with subprocess.Popen(line, stdout=subprocess.PIPE, env=child_environment(), text=True) as server:
            assert server.stdout is not None
            try:
                draw(output, json.loads(server.stdout.readline())["page"], photo)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
