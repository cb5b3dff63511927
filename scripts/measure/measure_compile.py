"""Steps of the language model, compiled and not in turn in one process, so that other work slows both alike.

    python scripts/measure/measure_compile.py --model MODEL --backend mlx
    python scripts/measure/measure_compile.py --model MODEL --backend mlx --answer

One JSON line: medians of the seconds of a training step (a pass and its update), or with --answer of a token's step after a
prompt of so many, their ratio, the seconds of the first compiled step, and how often the compiled one of a pair was the faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.adapters import LANGUAGE, AdapterArgs, init_adapter
from mlx_phi3v.backend import BACKENDS, OptimizerArgs, load_backend
from mlx_phi3v.batches import Batch, Example, collate
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.prompts import IGNORE


def text(backend: Any, rows: int, tokens: int, learnt: int) -> Batch:
    """Random text without photos."""
    ids = np.random.default_rng(0).integers(3, backend.config.vocab_size, tokens)
    labels = np.where(np.arange(tokens) >= tokens - learnt, ids, IGNORE)
    return collate([Example(str(row), ids, labels, ()) for row in range(rows)], backend.config)


def without_answer(backend: Any, row: int, tokens: int) -> Example:
    """A prompt of random text."""
    ids = np.random.default_rng(row).integers(3, backend.config.vocab_size, tokens)
    return Example(str(row), ids, np.full(tokens, IGNORE), ())


def training_steps(options: argparse.Namespace) -> tuple[Any, Callable[[bool], None]]:
    """A backend, and its step, compiled or not."""
    backend: Any = load_backend(options.backend, Path(resolve_model(options.model)), dtype=options.dtype)
    adapter = AdapterArgs(r=8, lora_alpha=16, target_modules=LANGUAGE)
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False, compiled=True)
    compiled, batch = backend.compiled, text(backend, options.rows, options.tokens, 29)

    def step(how: bool) -> None:
        backend.compiled = compiled if how else None
        backend.accumulate(batch)
        backend.update(1e-4, batch.answer_tokens, 1.0)
        backend.optimizer_tensors()  # waits for the update

    return backend, step


def token_steps(options: argparse.Namespace) -> tuple[Any, Callable[[bool], None]]:
    """A backend, and its step of a token a row, compiled or not; each way has its own cache."""
    backend: Any = load_backend(options.backend, Path(resolve_model(options.model)), dtype=options.dtype, compiled=True)
    prompts = collate([without_answer(backend, row, options.tokens) for row in range(options.rows)], backend.config)
    compiled, caches, tokens = backend.compiled_step, [backend.prefill(prompts)[1] for _ in range(2)], np.full(options.rows, 5)

    def step(how: bool) -> None:
        backend.compiled_step = compiled if how else None
        backend.decode(caches[how], tokens).numpy()  # waits for it

    return backend, step


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures."""
    backend, step = (token_steps if options.answer else training_steps)(options)

    def seconds(how: bool) -> float:
        began = time.perf_counter()
        step(how)
        return time.perf_counter() - began

    first = seconds(True)
    seconds(False)
    pairs = [(seconds(False), seconds(True)) for _ in range(options.pairs)]
    plain, built = (statistics.median(column) for column in zip(*pairs))
    return {
        "model": options.model, "backend": options.backend, "device": backend.device_info()["chip"], "rows": options.rows,
        "tokens": options.tokens, "uncompiled_s": round(plain, 5), "compiled_s": round(built, 5),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3), "first_s": round(first, 2),
        "faster": f"{sum(b < a for a, b in pairs)} of {len(pairs)}",
    }  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="checkpoint folder, hub id, or 'tiny'")
    parser.add_argument("--backend", default="mlx", choices=BACKENDS)
    parser.add_argument("--dtype", help="compute dtype; by default fp32 on a CPU, bf16 on an accelerator")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=798)
    parser.add_argument("--answer", action="store_true", help="the step of a token, not a training step")
    parser.add_argument("--pairs", type=int, default=5)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
