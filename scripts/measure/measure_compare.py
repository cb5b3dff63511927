"""Measure `eval.compare` on large synthetic runs: seconds, peak memory, size of the page.

    python scripts/measure/measure_compare.py [--rows 100000] [--differing 0.1] [--photos 1] [--trainings 1] [--folder DIR]

Rows are as `eval.predict` writes them: 24 tokens, each with the top 5, fingerprints, an image path; 30 categories, a
tenth of the answers differ. --photos: rows of one product. --trainings: runs a side, compared as two ways to train.
The comparison runs in a process of its own, so that its peak memory is measured alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from eval.runs.prediction import Prediction
from eval.runs.writer import RunWriter
from mlx_phi3v.task import ParsedField, Task

_TOKENS = 24


def write_run(folder: Path, n: int, *, seed: int, differing: float, label: str, photos: int) -> None:
    """A run of n rows; `seed` draws what differs from the other run: the share `differing` of the answers."""
    task = Task()
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    manifest = {"backend": label[0], "label": label, "hashes": {}, "settings": {"dtype": "float32"}, "task": task.to_dict()}
    with RunWriter.open(folder, manifest, resume=False) as writer:
        for i in range(n):
            category, price = int(shared.integers(30)), round(float(np.exp(shared.normal(5, 0.7))), 2)
            tokens = shared.integers(3, 32000, _TOKENS).tolist()
            price_guess, category_guess = price * float(np.exp(shared.normal(0, 0.1))), category if shared.random() < 0.9 else 0
            if own.random() < differing:
                at = int(own.integers(_TOKENS))
                tokens[at:] = own.integers(3, 32000, _TOKENS - at).tolist()
                price_guess *= float(np.exp(own.normal(0, 0.1)))
                category_guess = category_guess if own.random() < 0.7 else int(own.integers(30))
            answer: dict[str, str | float] = {
                "title": f"product number {i}",
                "category3_code": f"CATEGORY {category_guess}",
                "full_price": round(price_guess, 2),
            }
            logprobs = (-0.1 * own.random(_TOKENS)).round(6).tolist()
            others = [(round(x - 2, 6), round(x - 3, 6), round(x - 4, 6), round(x - 5, 6)) for x in logprobs]
            writer.write(
                Prediction(
                    id=f"product-{i:07d}",
                    true={"title": f"product number {i}", "category3_code": f"CATEGORY {category}", "full_price": price},
                    predicted={name: ParsedField(value, "ok") for name, value in answer.items()},
                    text=f"Product: product number {i}, Category: CATEGORY {category_guess}, Full Price: {price_guess:.2f}",
                    token_ids=tokens,
                    logprobs=logprobs,
                    top_k=[
                        [(t, x), *((t + k + 1, y) for k, y in enumerate(more))] for t, x, more in zip(tokens, logprobs, others)
                    ],
                    finish="end",
                    fingerprints={name: f"{i:064x}" for name in ("file", "pixels", "pixel_values", "input_ids")},
                    seconds=0.1,
                    product=f"product-{i // photos:07d}" if photos > 1 else None,
                )
            )
        writer.finish(seconds=1.0)


def measure(command: list[str], output: Path) -> tuple[float, float, float, int]:
    """(seconds, of these on a processor, peak resident GB, exit status) of a command that prints into `output`."""
    start, peak, busy = time.perf_counter(), 0, 0.0
    with open(output, "w", encoding="utf-8") as printed:
        process = psutil.Popen(command, stdout=printed)
        while process.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss)
                busy = sum(process.cpu_times()[:2])
            except psutil.Error:
                break
            time.sleep(0.02)
        return time.perf_counter() - start, busy, peak / 1e9, process.wait()


def main() -> int:
    """Make the runs, compare them, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--differing", type=float, default=0.1, help="share of the answers that differ")
    parser.add_argument("--photos", type=int, default=1, help="rows of one product")
    parser.add_argument("--trainings", type=int, default=1, help="runs a side")
    parser.add_argument("--folder", type=Path, help="folder for the runs (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        sides: dict[str, list[str]] = {"a": [], "b": []}
        for seed, (side, k) in enumerate(itertools.product(sides, range(options.trainings)), 1):
            label = f"{side}{k or ''}"
            differing = options.differing if seed > 1 else 0.0
            if not (folder / label / "manifest.json").exists():
                write_run(folder / label, options.rows, seed=seed, differing=differing, label=label, photos=options.photos)
            sides[side].append(str(folder / label))
        runs, html = [*sides["a"], *sides["b"]], folder / "report.html"
        if options.trainings > 1:
            runs = ["--a", *sides["a"], "--b", *sides["b"]]
        command = [sys.executable, "-m", "eval.compare", *runs, "--html", str(html), "--json"]
        report = folder / "report.json"
        seconds, busy, peak, status = measure(command, report)
        print(f"{options.rows:,} rows of {(folder / 'a' / 'predictions.jsonl').stat().st_size / options.rows:.0f} bytes each")
        print(f"{seconds:.1f} s ({busy:.1f} s of processor time), peak {peak:.2f} GB, exit status {status}")
        print(f"page {html.stat().st_size / 1e6:.2f} MB")
        print(f"verdict {json.loads(report.read_text())['verdict']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
