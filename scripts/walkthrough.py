"""Do the walk-through of docs/walkthrough.md with the tiny model, offline, and take its pictures in a browser.

    python scripts/walkthrough.py --output runs/walkthrough              the commands, then the pictures into docs/
    python scripts/walkthrough.py --output runs/walkthrough --pictures   the pictures alone

It needs the extras torch, wandb, tensorboard and trackio, and playwright with Chromium. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs"
MOST_BYTES = 150_000
COMMANDS = (
    "data.sample --output shop --products 700 --test 200 --validation 100",
    f"mlx_phi3v.train --data shop --output runs/shop --config {ROOT}/eval/demo/sample.yaml --backend torch "
    "--feature-cache features --batch-size 8 --epochs 5 --val-rows 40 --steps-per-report 5 --steps-per-eval 50 "
    "--report-to wandb,tensorboard,trackio --project shop --report-checkpoints end",
    "eval.predict --backend torch --adapter runs/shop --data shop --output runs/on-torch --label torch --dtype float32",
    "eval.predict --backend mlx --adapter runs/shop --data shop --output runs/on-mlx --label mlx --dtype float32",
    "eval.compare runs/on-torch runs/on-mlx --html runs/report.html --report-run runs/shop",
)
_DRAWING = 6000  # milliseconds that the pages have to draw
_VERDICTS = (0, 1, 3, 4)  # exit statuses of eval.compare that are a verdict


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the walk-through")
    parser.add_argument("--pictures", action="store_true", help="the commands were run before")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_DATA_DIR": str(folder / "wandb-data"),
        "WANDB_CACHE_DIR": str(folder / "wandb-cache"), "TRACKIO_DIR": str(folder / "trackio"),
    }  # fmt: skip
    for command in () if arguments.pictures else COMMANDS:
        print(f"python -m {command}", flush=True)
        status = subprocess.run([sys.executable, "-m", *command.split()], cwd=folder, env=environment).returncode
        if status not in (_VERDICTS if command.startswith("eval.compare") else (0,)):
            return status
    take_pictures(folder, environment)
    return 0


def take_pictures(folder: Path, environment: dict[str, str]) -> None:
    """Serve TensorBoard and trackio on this machine and photograph what they show."""
    from playwright.sync_api import sync_playwright

    port = _free_port()
    board = ["-m", "tensorboard.main", "--logdir", "runs", "--host", "127.0.0.1", "--port", str(port)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        with _served(board, folder, environment, port):
            address = f"http://127.0.0.1:{port}/?darkMode=false"
            _photograph(page, f"{address}&tagFilter=loss#timeseries", "tensorboard-curves", _close_settings)
            _photograph(page, f"{address}#images", "tensorboard-answers")
            _photograph(page, f"{address}#text", "tensorboard-verdict", _show_verdict)
        port = _free_port()
        code = "import sys; sys.argv = ['trackio', 'show', '--project', 'shop']; from trackio.cli import main; main()"
        with _served(["-c", code], folder, environment | {"GRADIO_SERVER_PORT": str(port)}, port):
            _photograph(page, f"http://127.0.0.1:{port}/?project=shop", "trackio-curves", _filter_trackio)
            _photograph(page, f"http://127.0.0.1:{port}/?project=shop", "trackio-answers", _show_table)
        browser.close()


@contextlib.contextmanager
def _served(command: list[str], folder: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    """A server of this machine, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait()


def _photograph(page: Page, address: str, name: str, prepare: Callable[[Page], None] | None = None) -> None:
    """Take a picture of a page, small enough for the repository."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_timeout(_DRAWING)
    if prepare:
        prepare(page)
        page.wait_for_timeout(_DRAWING)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} has more than {MOST_BYTES} bytes")


def _close_settings(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()


def _show_verdict(page: Page) -> None:
    page.locator("input:visible").last.fill("verdict")


def _filter_trackio(page: Page) -> None:
    page.get_by_placeholder("e.g., loss|ndcg@10|gpu").fill("loss|accuracy|error_share")


def _show_table(page: Page) -> None:
    page.set_viewport_size({"width": 1920, "height": 900})
    page.get_by_text("Media & Tables").click()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
