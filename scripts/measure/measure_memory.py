"""Peak memory of MLX training steps: fit the constants of `mlx_phi3v.training.footprint`, or compare them with a checkpoint.

    python scripts/measure/measure_memory.py fit
    python scripts/measure/measure_memory.py check --model CHECKPOINT --crops 1 4

`fit` runs small random models of varied width, depth and length. `check` runs real steps of a checkpoint, each in a
process of its own, and prints measured and estimated peaks.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.batches import Batch
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import ModelArgs, VisionArgs, load_model_config
from mlx_phi3v.training.footprint import INTERPRETER, BatchShape, StepSettings, adapter_parameters, footprint

STEPS = 2  # the first also makes what later ones reuse


@dataclass(frozen=True)
class Case:
    """One measurement."""

    rows: int
    tokens: int
    crops: int  # of the batch
    image_side: bool
    grad_checkpoint: bool
    rank: int = 8
    labels: int = 16

    def training(self, *, cpu: bool = True) -> StepSettings:
        """As `footprint` takes it."""
        targets = (*LANGUAGE, *VISION, *PROJECTOR) if self.image_side else LANGUAGE
        adapter = AdapterArgs(r=self.rank, lora_alpha=16, target_modules=targets)
        return StepSettings(adapter, "float32", self.grad_checkpoint, cpu=cpu)

    def batch_shape(self) -> BatchShape:
        """As `footprint` takes it."""
        return BatchShape(self.rows, self.tokens, self.crops, self.labels)


def batch(case: Case) -> Batch:
    """Random tokens and crops; the first tokens of a row are its photo's."""
    random = np.random.Generator(np.random.PCG64(0))
    ids = random.integers(3, 1000, (case.rows, case.tokens))
    labels = np.full_like(ids, -100)
    labels[:, -case.labels :] = ids[:, -case.labels :]
    index = np.full_like(ids, -1)
    if case.crops:
        index[:, :8] = 0
    pixels = random.standard_normal((case.crops, 3, 336, 336), np.float32)
    positions = np.tile(np.arange(case.tokens), (case.rows, 1))
    return Batch(tuple(map(str, range(case.rows))), ids, labels, np.ones(ids.shape, bool), positions, pixels, index)


def peaks(backend: Any, case: Case) -> dict[str, float]:
    """Bytes: in use between steps, and the peaks of a pass and of an update above that."""
    import mlx.core as mx

    training = case.training()
    backend.set_adapter(training.adapter, init_adapter(backend.config, training.adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=case.grad_checkpoint)
    mx.eval(backend.model.parameters(), backend.optimizer.state)
    gc.collect()
    held, taken = mx.get_active_memory(), batch(case)
    passes, updates = [], []
    for _ in range(STEPS):
        mx.reset_peak_memory()
        backend.accumulate(taken)
        mx.synchronize()
        passes.append(mx.get_peak_memory() - held)
        mx.reset_peak_memory()
        backend.update(1e-4, taken.answer_tokens, 1.0)
        mx.synchronize()
        updates.append(mx.get_peak_memory() - held)
    return {"held": held, "pass": max(passes), "update": max(updates)}


def random_backend(config: ModelArgs) -> Any:
    """A small model with MLX's own random weights."""
    from mlx_phi3v.backend_mlx.backend import MLXBackend
    from mlx_phi3v.backend_mlx.model import Phi3VForCausalLM

    model = Phi3VForCausalLM(config)
    model.freeze()
    return MLXBackend(model, config, Path(), "float32")


def language_model(layers: int, hidden: int, mlp: int, heads: int) -> ModelArgs:
    """With a tower that is hardly there."""
    vision = VisionArgs(32, 64, 2, 2, patch_size=84)
    return ModelArgs(1000, hidden, mlp, layers, heads, heads, vision=vision)


def tower_model(layers: int, hidden: int, mlp: int, heads: int, patch: int) -> ModelArgs:
    """With a tiny language model."""
    return ModelArgs(1000, 64, 96, 1, 4, 4, vision=VisionArgs(hidden, mlp, layers + 1, heads, patch_size=patch))


# (layers, hidden, mlp, heads), (rows, tokens); the last have the published width.
LANGUAGE_MODELS = [
    ((2, 256, 512, 4), (1, 256)), ((4, 256, 512, 4), (1, 256)), ((8, 256, 512, 4), (1, 256)), ((2, 256, 512, 4), (1, 512)),
    ((4, 256, 512, 4), (1, 512)), ((8, 256, 512, 4), (1, 512)), ((4, 256, 512, 4), (4, 256)), ((4, 256, 512, 8), (1, 512)),
    ((4, 256, 1024, 4), (1, 512)), ((4, 512, 512, 4), (1, 512)), ((4, 768, 2048, 8), (1, 400)), ((4, 768, 2048, 8), (1, 800)),
    ((2, 3072, 8192, 32), (1, 348)), ((4, 3072, 8192, 32), (1, 348)), ((2, 3072, 8192, 32), (1, 780)),
]  # fmt: skip
# (layers, hidden, mlp, heads, patch), crops; likewise
TOWERS = [
    ((2, 128, 512, 4, 21), 2), ((4, 128, 512, 4, 21), 2), ((8, 128, 512, 4, 21), 2), ((4, 128, 512, 4, 21), 4),
    ((4, 128, 512, 8, 21), 2), ((4, 256, 1024, 4, 21), 2), ((4, 128, 512, 4, 14), 2), ((4, 128, 1024, 4, 21), 2),
    ((4, 512, 2048, 8, 14), 2), ((4, 512, 2048, 8, 14), 5), ((4, 1024, 4096, 16, 14), 2), ((8, 1024, 4096, 16, 14), 2),
    ((8, 1024, 4096, 16, 14), 5),
]  # fmt: skip


def fit(console: Console) -> int:
    """Least squares of relative errors, no constant below zero."""
    for checkpointing in (False, True):
        rows, peak = [], []
        for (layers, hidden, mlp, heads), (count, tokens) in LANGUAGE_MODELS:
            case = Case(count, tokens, 0, False, checkpointing)
            figures = peaks(random_backend(language_model(layers, hidden, mlp, heads)), case)
            widths = np.array([hidden, mlp, heads * tokens]) * count * tokens
            rows.append([*(layers * widths), *widths])
            peak.append(figures["pass"])
        _report(console, f"LANGUAGE_COSTS, checkpointing {checkpointing}", rows, peak)
    for trains, checkpointing in ((False, False), (True, False), (True, True)):
        rows, peak = [], []
        for (layers, hidden, mlp, heads, patch), crops in TOWERS:
            case = Case(1, 32, crops, trains, checkpointing)
            figures = peaks(random_backend(tower_model(layers, hidden, mlp, heads, patch)), case)
            positions = (336 // patch) ** 2 + 1
            widths = np.array([hidden, mlp, heads * positions]) * crops * positions
            rows.append([*(layers * widths * trains), *widths, crops * 3 * 336**2])
            peak.append(figures["pass"])
        _report(console, f"TOWER_COSTS, trains {trains}, checkpointing {checkpointing}", rows, peak)
    for rank, hidden in itertools.product((32, 128), (256, 512)):
        case = Case(1, 8, 0, False, False, rank=rank, labels=4)
        config = language_model(4, hidden, 2 * hidden, 4)
        figures = peaks(random_backend(config), case)
        trained = 4 * adapter_parameters(config, case.training().adapter)
        console.print(
            f"rank {rank}, hidden {hidden}: update {figures['update'] / trained:.2f}, pass {figures['pass'] / trained:.2f}"
        )
    return 0


def _report(console: Console, title: str, rows: list[list[float]], peak: list[float]) -> None:
    matrix, floats = np.array(rows, float), np.array(peak) / 4
    factors, _ = nnls(matrix / floats[:, None], np.ones(len(floats)))
    errors = matrix @ factors / floats - 1
    shown = ", ".join(f"{value:.2f}" for value in factors)
    console.print(f"{title}: saved, working (and pixels) {shown}; errors {errors.min():+.1%} to {errors.max():+.1%}")


def check(options: argparse.Namespace, console: Console) -> int:
    """Measured and estimated peaks, one process a case."""
    config = load_model_config(resolve_model(options.model))
    cases = []
    for crops, image_side, checkpointing in itertools.product(options.crops, (False, True), (False, True)):
        if image_side and crops > options.most_trained_crops:
            continue
        encoded = 1 if crops == 1 else crops + 1
        tokens = (crops + 1) * config.vision.merged_grid**2 + 60
        cases.append(Case(1, tokens, encoded, image_side, checkpointing, labels=40))
    table = Table(title=f"GB at the peak of a step, {options.model}", title_justify="left")
    for name in ("tokens", "crops", "image side", "checkpointing", "estimate", "MLX's count", "ratio", "process", "ratio"):
        table.add_column(name, justify="right")
    worst = 0.0
    for case in cases:
        command = [sys.executable, __file__, "one", "--model", options.model, "--case", json.dumps(asdict(case))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            console.print(f"{case}: {done.stderr[-500:]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        estimate = footprint(config, case.batch_shape(), case.training()).total
        measured = found["held"] + max(found["pass"], found["update"])
        ratio, whole = estimate / measured, (estimate + INTERPRETER) / found["process"]
        worst = max(worst, abs(ratio - 1))
        table.add_row(
            str(case.tokens), str(case.crops), "LoRA" if case.image_side else "frozen", str(case.grad_checkpoint),
            f"{estimate / 1e9:.2f}", f"{measured / 1e9:.2f}", f"{ratio:.3f}", f"{found['process'] / 1e9:.2f}", f"{whole:.3f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"worst: {worst:.1%}")
    return 0


def one(options: argparse.Namespace) -> int:
    """A case of `check`."""
    figures = peaks(load_backend("mlx", resolve_model(options.model), dtype="float32"), Case(**json.loads(options.case)))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(figures | {"process": resident}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Fit or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("fit", "check", "one"))
    parser.add_argument("--model", default="tiny", help="check: checkpoint folder, hub id, or 'tiny'")
    parser.add_argument(
        "--crops", type=int, nargs="+", default=[1, 4], help="check: crops of the photo beside the global image"
    )
    parser.add_argument("--most-trained-crops", type=int, default=4, help="check: with LoRA on the image side, up to so many")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    console = Console(highlight=False)
    return {"fit": lambda: fit(console), "check": lambda: check(options, console), "one": lambda: one(options)}[options.work]()


if __name__ == "__main__":
    raise SystemExit(main())
