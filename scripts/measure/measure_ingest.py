"""Rows per second and peak memory of data.ingest at 10 %, 50 % and 100 % of a source.

python scripts/measure/measure_ingest.py --rows 1000000                    # a CSV without photos, written here
python scripts/measure/measure_ingest.py --catalogue runs/sample-100000    # the rows and photos of a catalogue
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from mlx_phi3v.catalogue import Catalogue, iterate

_WORDS = [
    "Wool",
    "Silk",
    "Cotton",
    "Linen",
    "Check",
    "Striped",
    "Plain",
    "Quilted",
    "Belted",
    "Short",
    "Long",
    "Classic",
    "Cropped",
]
_KINDS = ["Scarf", "Coat", "Shirt", "Dress", "Bag", "Belt", "Hat", "Shoe", "Sock", "Skirt"]


def written_rows(count: int) -> Iterable[list[str]]:
    """Rows of a made-up shop, the same ones at every run."""
    rng = random.Random(0)
    yield ["title", "category", "price", "product_code", "colour"]
    for k in range(count):
        kind = rng.choice(_KINDS)
        title = f"{rng.choice(_WORDS)} {rng.choice(_WORDS)} {kind}"
        yield [title, kind, f"${rng.randrange(50, 4000):,}.00", f"{k:08d}", rng.choice(("red", "blue", "green"))]


def catalogue_rows(folder: Path, count: int) -> Iterable[list[str]]:
    """The first `count` rows of a catalogue, all splits, with the paths of their photos."""
    catalogue = Catalogue(folder)
    rows = itertools.chain.from_iterable(iterate(catalogue.split(name)) for name in catalogue.info["splits"])
    yield ["title", "category", "price", "product_code", "image"]
    for _, row in zip(range(count), rows):
        yield [row["title"], row["category3_code"], str(row["full_price"]), row["product_code"], row["images"][0]]


def run(source: Path, output: Path, processes: int, images: bool) -> dict[str, float]:
    """Ingest `source` -> seconds and the peak of resident memory in MB, of the parent and of all processes together."""
    command = [sys.executable, "-m", "data.ingest", str(source), "-o", str(output), "--code", "product_code", "--json"]
    command += [] if images else ["--no-images"]
    command += ["--field", "title=title", "category=category:category", "price=price:number:USD", "--processes", str(processes)]
    began, used = time.monotonic(), _cpu_seconds()
    with open(output.with_suffix(".log"), "w") as log:
        process = psutil.Popen(command, stdout=log)
        parent, together = 0, 0
        while process.poll() is None:
            try:
                own = process.memory_info().rss
                children = [child.memory_info().rss for child in process.children(recursive=True)]
            except psutil.Error:
                continue
            parent, together = max(parent, own), max(together, own + sum(children))
            time.sleep(0.05)
    seconds = time.monotonic() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu = round(_cpu_seconds() - used, 1)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": cpu,
        "parent_peak_mb": parent // 2**20,
        "all_peak_mb": together // 2**20,
    }


def _cpu_seconds() -> float:
    """CPU time of all finished children; on a busy machine a fairer figure than the clock."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Print one JSON line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows at 100 %% (default: 1000000)")
    parser.add_argument("--catalogue", type=Path, help="take rows and photos from this catalogue")
    parser.add_argument("--processes", type=int, default=2)
    settings = parser.parse_args(argv)
    rows = settings.rows
    if settings.catalogue:
        rows = sum(entry["rows"] for entry in Catalogue(settings.catalogue).info["splits"].values())
    for share in (0.1, 0.5, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            count = int(rows * share)
            source = Path(folder, "rows.csv")
            made = catalogue_rows(settings.catalogue.resolve(), count) if settings.catalogue else written_rows(count)
            with open(source, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(made)
            figures = run(source, Path(folder, "out"), settings.processes, settings.catalogue is not None)
            print(json.dumps({"rows": count, **figures, "rows_per_second": round(count / figures["seconds"])}), flush=True)


if __name__ == "__main__":
    main()
