"""A checkpoint folder as mlx-vlm loads it, and how it answers there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate import generate_step
from mlx_vlm.generate.ar import BatchGenerator

from mlx_phi3v.batches import Example


def model_inputs(examples: Sequence[Example]) -> dict[str, Any]:
    """What the processor makes of prompts of one length: ids, crops and grids."""
    images = [image for example in examples for image in example.images]
    inputs: dict[str, Any] = {"input_ids": mx.array(np.stack([example.input_ids for example in examples]))}
    if images:
        inputs["pixel_values"] = mx.array(np.concatenate([image.distinct_crops for image in images]))
        inputs["image_grids"] = [list(image.grid) for image in images]
    return inputs


def answer(model: Any, example: Example, tokens: int, **options: Any) -> list[int]:
    """Greedy ids by mlx-vlm's own loop."""
    inputs = model_inputs([example])
    ids, pixels = inputs.pop("input_ids"), inputs.pop("pixel_values", None)
    steps = generate_step(ids, model, pixels, None, max_tokens=tokens, temperature=0.0, **inputs, **options)
    return [int(token) for token, _ in steps]


def batch_answers(model: Any, processor: Any, examples: Sequence[Example], tokens: int, every: int = 3) -> list[list[int]]:
    """Greedy ids by mlx-vlm's continuous batching, as its server runs it; a new prompt joins after each `every` steps."""
    batch = BatchGenerator(model.language_model, processor, max_tokens=tokens, compute_logprobs=False)
    waiting, found, steps = list(examples), dict[int, list[int]](), 0
    while waiting or batch.has_work:
        if waiting and steps % every == 0:
            inputs = model_inputs([waiting.pop(0)])
            embedded = model.get_input_embeddings(inputs["input_ids"], inputs.get("pixel_values"), **_rest(inputs))
            kwargs = _rest(inputs) | {"inputs_embeds": embedded.inputs_embeds}
            [uid] = batch.insert(inputs["input_ids"].tolist(), tokens, prompt_kwargs=[kwargs])
            found[uid] = []
        for response in batch.next()[1]:
            found[response.uid].append(response.token)
        steps += 1
    return [found[uid] for uid in sorted(found)]


def _rest(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in ("input_ids", "pixel_values")}


def load(folder: Path) -> tuple[Any, Any]:
    """Model and processor by `mlx_vlm.load`."""
    import mlx_vlm

    return mlx_vlm.load(str(folder))
