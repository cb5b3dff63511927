"""`python phi3v_mlx_vlm.py [FOLDER]`: does mlx-vlm compute here what the folder's `probe.json` expects?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from .config import FOLDER


def probe_gap(model: Any, processor: Any, folder: Path) -> tuple[float, float, int]:
    """(largest gap to the expected log-probabilities, the most that rounding makes, tokens): nats, nats, a number."""
    probe = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    stored = str(model.lm_head.weight.dtype).removeprefix("mlx.core.")
    tolerance = max(probe["tolerance_nats"].get(dtype, 0.25) for dtype in (probe["dtype"], stored))
    largest, tokens = 0.0, 0
    for case in probe["cases"]:
        expected = np.array(case["token_ids"])
        with Image.open(folder / case["picture"]) as photo:
            inputs = processor(text=case["prompt"], images=[photo], num_crops=case["num_crops"])
        ids = mx.concatenate([inputs["input_ids"], mx.array(expected)[None]], axis=1)
        given = {name: inputs[name] for name in ("pixel_values", "image_grids")}
        logits = model(ids, logits_to_keep=len(expected) + 1, **given).logits[0, :-1].astype(mx.float32)
        scores = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[np.arange(len(expected)), expected]
        largest = max(largest, float(np.abs(scores - np.array(case["logprobs"])).max()))
        tokens += len(expected)
    return largest, tolerance, tokens


def probe_main(arguments: list[str]) -> int:
    """Check a folder, by default the one of this file: 0 where the probe is met, 1 where not, 2 where there is none."""
    folder = Path(arguments[0]).resolve() if arguments else FOLDER
    if not (folder / "probe.json").is_file():
        print(f"{folder} has no probe.json", file=sys.stderr)
        return 2
    from mlx_vlm import load

    gap, tolerance, tokens = probe_gap(*load(str(folder)), folder)
    met = gap <= tolerance
    print(f"probe: {'applied' if met else 'NOT applied'}, gap {gap:.1g} nats over {tokens} tokens, at most {tolerance:g}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(probe_main(sys.argv[1:]))
