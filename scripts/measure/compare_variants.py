"""What a backend, a fusion, fewer bits or another batch size change, with an adapter of each backend.

    python -m eval --seeds 1 && python scripts/measure/compare_variants.py

Answers the test split in every variant (runs/sample/variants), then prints: each adapter on both backends; the
reference against itself, as the noise floor; one table of base, LoRA, fused, 8 and 4 bit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def command(module: str, *arguments: object, statuses: Sequence[int] = (0,)) -> None:
    """Run `python -m module`, its output shown. Exits where its status is not one of `statuses`."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    print("$ python -m", *line[2:], flush=True)
    status = subprocess.run(line, check=False).returncode
    if status not in statuses:
        raise SystemExit(f"{module} ended with status {status}")


def main() -> int:
    """Convert, fuse, answer, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=Path, default=Path("runs/sample"), help="what python -m eval --seeds 1 made")
    parser.add_argument("--limit", type=int, help="only the first rows of the test split")
    options = parser.parse_args()
    sample: Path = options.sample
    out = sample / "variants"
    unchecked = ["--no-probe", "--receipt", 0]
    mlx, tiny = sample / "model", "tiny"
    for bits in (8, 4):
        if not (out / f"model-{bits}bit").exists():
            # Groups of 32: the tiny model's widths are no multiples of 64.
            flags = ["-q", "--q-bits", bits, "--q-group-size", 32, "--dtype", "float32", *unchecked]
            command("mlx_phi3v.convert", "--hf-path", tiny, "--mlx-path", out / f"model-{bits}bit", *flags)
    if not (out / "model-fused").exists():
        command(
            "mlx_phi3v.fuse",
            "--model",
            mlx,
            "--adapter-path",
            sample / "mlx-adapter",
            "--save-path",
            out / "model-fused",
            *unchecked,
        )
    adapters = {"mlx": sample / "mlx-adapter", "torch": sample / "torch-adapter"}
    limit = ["--limit", options.limit] if options.limit else []

    def answer(name: str, backend: str, model: object, adapter: Path | None, *flags: object) -> Path:
        use = ["--adapter", adapter] if adapter else []
        where = ["--data", sample / "catalogue", "--output", out / name, "--label", name]
        command("eval.predict", "--backend", backend, "--model", model, *use, *where, *limit, *flags)
        return out / name

    runs = {
        f"{made}-adapter on {on}": answer(f"{made}-adapter on {on}", on, mlx if on == "mlx" else tiny, adapter)
        for made, adapter in adapters.items()
        for on in ("mlx", "torch")
    }
    reference = runs["mlx-adapter on torch"]
    floor = [
        answer("torch, batch 1", "torch", tiny, adapters["mlx"], "--batch-size", 1),
        answer("torch, eager", "torch", tiny, adapters["mlx"], "--attn-implementation", "eager"),
        answer("torch, bf16", "torch", tiny, adapters["mlx"], "--dtype", "bfloat16"),
    ]
    variants = [
        answer("base", "mlx", mlx, None),
        runs["mlx-adapter on mlx"],
        answer("fused", "mlx", out / "model-fused", None),
        answer("8 bit", "mlx", out / "model-8bit", adapters["mlx"]),
        answer("4 bit", "mlx", out / "model-4bit", adapters["mlx"]),
    ]
    verdicts = (0, 1, 3)
    command("eval.compare", reference, runs["mlx-adapter on mlx"], "--floor", *floor, "--rows", 5, statuses=verdicts)
    command("eval.compare", runs["torch-adapter on torch"], runs["torch-adapter on mlx"], "--rows", 5, statuses=verdicts)
    command("eval.compare", *variants, "--reference", variants[1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
