"""An example comparison for the page's test and for the pictures in docs/: synthetic runs, drawn photos, hostile answers.

python -m tests.helpers.page_example docs      draws docs/comparison-390.png and docs/comparison-1280.png
"""

from __future__ import annotations

import colorsys
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.divergence import first_difference
from eval.report import page
from mlx_phi3v.files import sha256_file
from tests.helpers.synthetic_runs import CATEGORIES, END, Row, answer, changed, make_rows, write_run

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_HEIGHTS = {390: 3700, 1280: 2800}

HOSTILE = (
    "Product: <script>document.title = 'owned'</script><img src=x onerror=alert(1)> [bold]wool[/bold], "
    "Category: BAGS, Full Price: 10.0"
)


def example_comparison(folder: Path, *, rows: int = 400) -> Comparison:
    """Two runs of which B answers 5 % of the categories, and some prices and titles, otherwise."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    (photos / "catalogue.json").write_text("{}")  # a page shows photos of a run's catalogue only
    reference = make_rows(rows, right=0.93)
    for i, row in enumerate(reference):
        row["image"] = str(_draw_photo(photos / f"{i % 40}.png", i % 40))
    generator = np.random.default_rng(1)
    draw = generator.random(rows)

    def change(row: Row) -> None:
        text, place = row["text"], draw[int(row["id"][1:])]
        if place < 0.05:
            category = str(row["predicted"]["category3_code"]["value"])
            other = CATEGORIES[(CATEGORIES.index(category) + 1) % len(CATEGORIES)]
            answer(row, text.replace(f"Category: {category}", f"Category: {other}"))
        elif place < 0.08:
            answer(row, text.replace("Full Price: ", "Full Price: 1"))
        elif place < 0.1:
            answer(row, text.split(", Full Price")[0])
        elif place < 0.12:
            row["fingerprints"]["pixels"] = row["fingerprints"]["pixel_values"] = "other"
            answer(row, text.replace("Product: ", "Product: deep blue "))

    others = changed(reference, lambda i, row: draw[i] < 0.12, change)
    answer(reference[7], HOSTILE)
    answer(others[7], HOSTILE.replace("[bold]wool[/bold]", "[bold red]silk[/bold red]"))
    for i, (a, b) in enumerate(zip(reference, others)):
        _doubt(generator, a, b)
        _margin(a, b, 0.1 if i % 2 else 1.5)
    model: dict[str, Any] = {"model": str(folder / "model"), "hashes": {"tokenizer": write_tokenizer(folder / "model")}}
    run_a = write_run(
        folder / "cuda",
        reference,
        label="LoRA on CUDA, bf16",
        backend="torch",
        settings={"dtype": "bfloat16"},
        catalogue=str(photos),
        **model,
    )
    run_b = write_run(
        folder / "mlx",
        others,
        label="LoRA on a Mac, bf16",
        catalogue=str(photos),
        backend="mlx",
        settings={"dtype": "bfloat16"},
        **model,
        device={"name": "gpu", "chip": "Apple M3 Max", "dtype": "bfloat16", "blas": "Metal"},
    )
    return compare_runs(run_a, run_b)


def _doubt(generator: np.random.Generator, a: Row, b: Row) -> None:
    """The same doubt of both at the first character of category and price: less where the value is wrong."""
    for name, label in (("category3_code", "Category: "), ("full_price", "Full Price: ")):
        right = a["predicted"][name]["value"] == a["true"][name]
        probability = float(generator.beta(6, 1.5)) if right else float(generator.beta(3, 2.5))
        for row in (a, b):
            if label in row["text"]:
                row["logprobs"][row["text"].index(label) + len(label)] = float(np.log(probability))


def write_tokenizer(folder: Path) -> str:
    """A tokenizer of one token a character, as `synthetic_runs.tokenize` makes them; its hash."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({chr(i): i for i in range(32, 127)} | {"<|end|>": END}, unk_token="?"))
    tokenizer.add_special_tokens(["<|end|>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return sha256_file(folder / "tokenizer.json")


def _margin(a: Row, b: Row, nats: float) -> None:
    """Where two answers first differ, let each side hold the other's token `nats` below its own."""
    k = first_difference(a["token_ids"], b["token_ids"])
    if k < min(len(a["token_ids"]), len(b["token_ids"])):
        for row, other in ((a, b), (b, a)):
            row["logprobs"][k] = -0.7
            row["top_k"][k] = [[row["token_ids"][k], -0.7], [other["token_ids"][k], -0.7 - nats]]


def _draw_photo(path: Path, i: int) -> Path:
    if not path.exists():
        hue = colorsys.hsv_to_rgb(i / 40, 0.5, 0.85)
        image = Image.new("RGB", (300, 400), "white")
        draw = ImageDraw.Draw(image)
        colour = tuple(int(255 * value) for value in hue)
        if i % 2:
            draw.polygon([(60, 120), (240, 120), (270, 360), (30, 360)], fill=colour)
            draw.arc((90, 40, 210, 200), 180, 360, fill=colour, width=14)
        else:
            draw.rounded_rectangle((70, 60, 230, 360), 30, fill=colour)
        image.save(path)
    return path


def chromium() -> str | None:
    """A Chromium of this machine: on the path, a Mac's application, or playwright's own."""
    from playwright.sync_api import sync_playwright

    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    if Path(_MAC).exists():
        return _MAC
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if own and Path(own).exists() else None


def draw(folder: Path) -> None:
    """The example's page at phone and desk width, as pictures."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    if program is None:
        raise SystemExit("no Chromium on this machine: install chromium or Google Chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        report = Path(temporary) / "report.html"
        page.write_page(report, example_comparison(Path(temporary) / "runs"))
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        for width, height in _HEIGHTS.items():
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            tab.goto(report.as_uri())
            path = folder / f"comparison-{width}.png"
            tab.screenshot(path=path, clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True)
        browser.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
