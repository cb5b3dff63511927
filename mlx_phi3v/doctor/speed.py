"""What the machine reaches: matrix products and reading memory, and how much of it a training step does.

`calibrate` times a real step of one decoder layer and two tower layers of the published width, with random weights, and
attention and unpacking alone. It counts the memory of a step of a narrow, deeper model.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from ..adapters import LANGUAGE, AdapterArgs, init_adapter
from ..backend import Backend, OptimizerArgs
from ..batches import Example, collate
from ..calibration import Calibration, machine
from ..config import CROP_SIZE, ModelArgs, VisionArgs
from ..prompts import IGNORE
from ..timing import fastest
from ..training.footprint import footprint
from ..training.step_shape import BatchShape, StepSettings
from ..training.step_work import step_work

SECONDS = 0.4  # about what one figure may take
WIDE = ModelArgs(vocab_size=2048, num_hidden_layers=1, vision=VisionArgs(num_hidden_layers=3))
NARROW = ModelArgs(2048, 256, 688, 4, 8, 8, vision=VisionArgs(64, 128, 2, 2, patch_size=84))
TOKENS, LABELS = 512, 32
FEW = 256  # tokens of a row of NARROW
HEADS, ATTENDED = 16, 768  # heads and tokens of an attention of the published width that is timed


def measure(backend: str, dtypes: tuple[str, ...]) -> dict[str, Any]:
    """GFLOP/s by dtype, and GB/s of a matrix that is read once, in the dtype that comes first."""
    module = importlib.import_module(f"mlx_phi3v.backend_{backend}.speed")
    peaks = {dtype: _peak_gflops(module.product_seconds, dtype) for dtype in dtypes}
    width = 4096 if peaks[dtypes[0]] < 2000 else 16384
    size = width * width * (4 if dtypes[0] == "float32" else 2)
    return {"gflops": peaks, "gb_per_s": size / module.product_seconds(1, width, width, dtypes[0], 5) / 1e9}


def _peak_gflops(product_seconds: Callable[..., float], dtype: str) -> float:
    """Of square products, each twice as wide as the one before, until one takes too long."""
    best, n = 0.0, 256
    while n <= 16384:
        seconds = product_seconds(n, n, n, dtype, 3)
        best = max(best, 2 * n**3 / seconds / 1e9)
        if 4 * 8 * seconds > SECONDS:  # four of the next
            break
        n *= 2
    return best


def calibrate(backend: str, peaks: dict[str, float], dtype: str | None = None) -> Calibration:
    """Time and memory of training steps against the estimates' arithmetic. peaks: GFLOP/s by dtype, as `measure` gives them.

    dtype: by default the backend's own there.
    """
    module = importlib.import_module(f"mlx_phi3v.backend_{backend}.speed")
    dtype = dtype or module.default_dtype()
    assert dtype is not None
    gflops = peaks[dtype]
    activations = _activations(module, dtype) if module.MEMORY_IS_MEASURED else None
    width = WIDE.head_dim
    flops = 3 * 2 * HEADS * ATTENDED**2 * width  # see `step_work`
    attention = _within(0.01, flops / module.attention_seconds(HEADS, ATTENDED, width, dtype, 2) / gflops / 1e9, 2.0)
    unpacking = module.unpack_seconds(WIDE.qkv_size, WIDE.hidden_size, 2)
    language, tower = _shares(module.random_model(WIDE, dtype), gflops, attention)
    return Calibration(
        machine(),
        backend,
        datetime.now().astimezone().isoformat(timespec="seconds"),
        dtype,
        round(gflops, 1),
        _within(0.01, language, 2.0),
        _within(0.01, tower, 2.0),
        None if activations is None else _within(0.1, activations, 10.0),
        attention,
        None if unpacking is None else _within(0.001, WIDE.qkv_size * WIDE.hidden_size / unpacking / 1e9, 1e6),
    )


def _within(low: float, value: float, high: float) -> float:
    """What `Calibration` takes: beyond it a machine was disturbed while it was measured."""
    return round(min(max(value, low), high), 3)


def _shares(backend: Backend, gflops: float, attention_share: float) -> tuple[float, float]:
    """The shares of the peak that products of a step of the language model and a frozen tower's pass reach."""
    settings = _settings(backend)
    _start(backend, settings)
    few, all_tokens = (_step(backend, rows=1, tokens=tokens) for tokens in (16, TOKENS))
    few()  # it makes what the timed ones use again
    work = step_work(backend.config, BatchShape(1, TOKENS, 1, LABELS), settings)
    crops = np.zeros((1, 3, CROP_SIZE, CROP_SIZE), np.float32)
    language = fastest(all_tokens, 2, most=4 * SECONDS, warm=False) - work.attention / attention_share / gflops / 1e9
    tower = fastest(lambda: backend.vision_features(crops), 2, most=4 * SECONDS, warm=False)
    return work.language / max(language, 1e-9) / gflops / 1e9, work.tower / tower / gflops / 1e9


def _activations(module: Any, dtype: str) -> float:
    """Bytes of a step beside what is held between steps, as a share of the estimate."""
    gc.collect()
    backend: Backend = module.random_model(NARROW, dtype)
    settings = _settings(backend)
    _start(backend, settings)
    step = _step(backend, rows=2, tokens=FEW)
    step()
    held = module.memory_in_use()
    step()
    estimated = footprint(NARROW, BatchShape(2, FEW, 0, LABELS), settings).activations
    share: float = (backend.peak_memory() - held) / estimated
    return share


def _settings(backend: Backend) -> StepSettings:
    on_cpu = backend.device_info()["name"] == "cpu"
    return StepSettings(AdapterArgs(target_modules=LANGUAGE), backend.dtype, False, encode=True, cpu=on_cpu)


def _start(backend: Backend, settings: StepSettings) -> None:
    """Put a fresh adapter on the model, and make its optimiser."""
    backend.set_adapter(settings.adapter, init_adapter(backend.config, settings.adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)


def _step(backend: Backend, rows: int, tokens: int) -> Callable[[], None]:
    """One step on text of so many tokens, of which LABELS, or half, are learnt."""
    ids = np.random.default_rng(0).integers(3, backend.config.vocab_size, tokens)
    labels = np.where(np.arange(tokens) >= tokens - min(LABELS, tokens // 2), ids, IGNORE)
    batch = collate([Example(str(row), ids, labels, ()) for row in range(rows)], backend.config)

    def step() -> None:
        backend.accumulate(batch)
        backend.update(1e-4, batch.answer_tokens, 1.0)

    return step
