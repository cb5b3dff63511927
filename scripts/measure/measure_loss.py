"""Peak memory and time of the loss of many learnt tokens, a chunk of logits at a time and all at once, on MLX.

    python scripts/measure/measure_loss.py [LEARNT ...]

One JSON line for each number of learnt tokens: MLX's own count of the peak above what is held before, in MB, and the seconds of
loss and gradient, of the published width and vocabulary.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mlx_phi3v.backend import set_up

WIDTH, WORDS = 3072, 32064


def measured(labels: int, at_once: int) -> tuple[float, float]:
    """(peak in MB, seconds) of loss and gradient, of `labels` learnt tokens in chunks of `at_once`."""
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_phi3v.backend_mlx import loss

    chunks: Any = loss
    chunks.LABELS_AT_ONCE = at_once
    head = nn.Linear(WIDTH, WORDS, bias=False)
    head.freeze()
    rows, targets = mx.random.normal((labels, WIDTH)), mx.zeros(labels, mx.int32)
    mx.eval(head.parameters(), rows, targets)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    began = time.perf_counter()
    mx.eval(mx.value_and_grad(lambda x: loss.summed_loss(head, x, targets))(rows))
    seconds = time.perf_counter() - began
    return (mx.get_peak_memory() - held) / 1e6, seconds


def main() -> None:
    """Measure."""
    set_up("mlx")
    from mlx_phi3v.config import LABELS_AT_ONCE

    for labels in map(int, sys.argv[1:] or (256, 512, 1024, 2048)):
        figures: dict[str, float] = {"learnt": labels}
        for name, at_once in (("chunks", LABELS_AT_ONCE), ("at_once", labels)):
            peak, seconds = measured(labels, at_once)
            figures |= {f"{name}_mb": round(peak), f"{name}_s": round(seconds, 2)}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
