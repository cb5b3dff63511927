"""How long commands take to start: `--help` of each, and an answer on each backend.

    python scripts/measure/measure_startup.py help [--before COMMIT]
    python scripts/measure/measure_startup.py answer [--before COMMIT]

help: `python -m COMMAND --help` to its end. answer: `generate` with the built-in model, to the first of its answer and to its
end. Seconds of the processor and of the clock, each in a process of its own; with --before that commit runs in turn with this
one. A figure is the least of all rounds, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """The modules of all installed commands, as `python -m` takes them."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return sorted({target.partition(":")[0].removesuffix(".__main__") for target in scripts.values()})


def started(tree: Path, words: list[str]) -> dict[str, float]:
    """Seconds of a process, of the processor and the clock, to its first output and to its end."""
    clock = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *words], cwd=tree, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first, used = time.perf_counter() - clock, psutil.Process(process.pid).cpu_times()
        process.stdout.read()
        _, status, total = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}")
    return {
        "first": used.user + used.system, "first_clock": first,
        "all": total.ru_utime + total.ru_stime, "all_clock": time.perf_counter() - clock,
    }  # fmt: skip


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
        ask = ["-m", "mlx_phi3v.generate", "--image", str(photo), "--max-new-tokens", "8", "--backend"]
        measure({f"answer, {name}": [*ask, name] for name in ("mlx", "torch")}, args.rounds, args.before)


if __name__ == "__main__":
    main()
