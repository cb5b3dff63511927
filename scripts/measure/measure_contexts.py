"""How time and memory grow with the prompt, from 1,024 tokens to 131,072.

    python scripts/measure/measure_contexts.py --folder WHERE [--backend mlx torch] [--tokens 1024 4096 16384 65536 131072]

A narrow random model (2 layers of 2 heads, width 64) with the published model's positions and long RoPE reads prompts of random
text, each in a process of its own; then it adds tokens one by one. A line of JSON each: seconds of reading and of a token more
(the least of five), GB that the process took at most, and how much of it before reading. --kv-bits packs keys and values. So
narrow a model shows growth, not the speed of a large one: attention is nearly all of its time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from narrow_model import POSITIONS, write_narrow

from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.prompts import IGNORE

TOKENS = (1024, 4096, 16384, 65536, POSITIONS)


def peak_gb() -> float:
    """Most memory that this process took so far."""
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, 3)


def measure(folder: Path, backend: str, tokens: int, kv_bits: int | None) -> dict[str, Any]:
    """One prompt of so many tokens, or as many as leave room for the tokens added."""
    more = 5
    loaded = load_backend(backend, folder, dtype="float32", kv_bits=kv_bits)
    ids = np.random.Generator(np.random.PCG64(0)).integers(3, 1000, min(tokens, POSITIONS - more))
    batch = collate([Example("text", ids, np.full(len(ids), IGNORE), ())], loaded.config)
    scores, cache = loaded.prefill(collate([Example("short", ids[:64], ids[:64], ())], loaded.config))
    scores.numpy()
    before, began = peak_gb(), time.perf_counter()
    scores, cache = loaded.prefill(batch)
    scores.numpy()
    prefill, steps = time.perf_counter() - began, []
    for token in range(more):
        began = time.perf_counter()
        scores = loaded.decode(cache, np.array([3 + token]))
        assert np.isfinite(scores.numpy()).all()
        steps.append(time.perf_counter() - began)
    return {
        "backend": backend, "tokens": len(ids), "kv_bits": kv_bits, "prefill_s": round(prefill, 2),
        "token_ms": round(1e3 * min(steps), 1), "peak_gb": peak_gb(), "before_gb": before,
        "cache_gb": round(cache.nbytes() / 1e9, 4),
    }  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the model is, or is written")
    parser.add_argument("--backend", nargs="+", default=["mlx", "torch"])
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--kv-bits", type=int)
    parser.add_argument("--here", action="store_true", help="one measurement, in this process")
    options = parser.parse_args()
    if not options.folder.exists():
        write_narrow(options.folder)
    if options.here:
        print(json.dumps(measure(options.folder, options.backend[0], options.tokens[0], options.kv_bits)), flush=True)
        return
    for tokens in options.tokens:
        for backend in options.backend:
            bits = [] if options.kv_bits is None else ["--kv-bits", str(options.kv_bits)]
            one = ["--folder", str(options.folder), "--backend", backend, "--tokens", str(tokens), "--here", *bits]
            subprocess.run([sys.executable, __file__, *one], check=True)


if __name__ == "__main__":
    main()
