"""How long commands take to start: `--help` of each, and the first of an answer on each backend.

    python scripts/measure/measure_startup.py help [--before COMMIT]
    python scripts/measure/measure_startup.py answer [--before COMMIT]

help: processor and clock of `python -m COMMAND --help`. answer: the clock at which `generate` writes the first of the built-in
model's answer, the processor time up to its end, and that of importing each backend alone. Each is a process of its own; with
--before that commit runs in turn with this one. The figure is the least of all rounds, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """The modules of all installed commands, as `python -m` takes them."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return sorted({target.partition(":")[0].removesuffix(".__main__") for target in scripts.values()})


def processor_seconds() -> float:
    """What ended children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def started(tree: Path, words: list[str]) -> dict[str, float]:
    """Seconds of a process: of the processor, of the clock to its first output and to its end."""
    processor, clock = processor_seconds(), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *words], cwd=tree, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - clock
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}")
    return {"processor": processor_seconds() - processor, "first": first, "clock": time.perf_counter() - clock}


@contextlib.contextmanager
def trees(before: str | None) -> Iterator[dict[str, Path]]:
    """This checkout as "now" and, where one is given, the commit's files as "before"."""
    with tempfile.TemporaryDirectory() as folder:
        if before:
            files = subprocess.run(["git", "archive", before], cwd=ROOT, check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(files)) as tar:
                tar.extractall(folder, filter="data")
        yield {"before": Path(folder), "now": ROOT} if before else {"now": ROOT}


def measure(names: dict[str, list[str]], rounds: int, before: str | None) -> None:
    """Print the least seconds of each command line, before and now in turn."""
    with trees(before) as places:
        for name, words in names.items():
            figures: dict[str, dict[str, float]] = {}
            for _ in range(rounds):
                for when, tree in places.items():
                    taken = started(tree, words)
                    known = figures.setdefault(when, taken)
                    figures[when] = {kind: min(known[kind], value) for kind, value in taken.items()}
            shown: dict[str, Any] = {
                when: {kind: round(value, 3) for kind, value in of.items()} for when, of in figures.items()
            }
            print(json.dumps({"what": name} | shown), flush=True)


def answer_words(photo: Path) -> dict[str, list[str]]:
    """The command lines of an answer, and of the imports alone."""
    ask = ["-m", "mlx_phi3v.generate", "--image", str(photo), "--max-new-tokens", "8", "--backend"]
    found = {f"import, {name}": ["-c", f"import mlx_phi3v.backend_{name}.loading; print()"] for name in ("mlx", "torch")}
    return found | {f"answer, {name}": [*ask, name] for name in ("mlx", "torch")}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("help", "answer"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="COMMIT", help="run that commit too")
    args = parser.parse_args()
    if args.what == "help":
        measure({name: ["-m", name, "--help"] for name in commands()}, args.rounds, args.before)
        return
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.linear_gradient("L").convert("RGB").save(photo)
        measure(answer_words(photo), args.rounds, args.before)


if __name__ == "__main__":
    main()
