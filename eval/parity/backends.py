"""MLX against torch on any checkpoint: the same stages as against recorded outputs, torch taken as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.adapters import AdapterArgs, init_adapter
from mlx_phi3v.backend import Backend, OptimizerArgs, load_backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.golden.checks import Check, check, cosine_distance, mismatch, relative_error
from mlx_phi3v.photo import open_photo
from mlx_phi3v.progress import say
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task

_ANSWER = "Product: Check Cotton Scarf, Category: SCARVES, Full Price: 450.0"
_STEPS = 2
# Between two frameworks on a checkpoint of true width: each has its own rounding, so ten times the golden tolerance.
_TOLERANCE = 1e-3


def compare_backends(model: str, images: Sequence[str], *, num_crops: int | None, new_tokens: int) -> list[Check]:
    """Run both backends, one after the other, and compare every stage in the order of the computation."""
    folder = resolve_model(model)
    ours, theirs = (_run(name, folder, images, num_crops, new_tokens) for name in ("mlx", "torch"))
    pair = "mlx-torch"
    checks = []
    if "features" in theirs:
        error = relative_error(ours["features"], theirs["features"])
        checks.append(check(pair, "vision features", "projected table", error, tolerance=_TOLERANCE))
    for i, (a, b) in enumerate(zip(ours["hidden_states"], theirs["hidden_states"])):
        checks.append(
            check(
                pair, "hidden states", "embeddings" if i == 0 else f"layer {i - 1}", relative_error(a, b), tolerance=_TOLERANCE
            )
        )
    checks.append(
        check(pair, "logits", "all answer positions", relative_error(ours["logits"], theirs["logits"]), tolerance=_TOLERANCE)
    )
    for step, (a, b) in enumerate(zip(ours["losses"], theirs["losses"])):
        checks.append(check(pair, "training loss", f"step {step}", abs(a - b) / abs(b)))
    for step, (a, b) in enumerate(zip(ours["norms"], theirs["norms"])):
        checks.append(check(pair, "training gradient norm", f"step {step}", abs(a - b) / abs(b)))
    checks.append(check(pair, "trained adapter", f"after {_STEPS} steps", cosine_distance(ours["adapter"], theirs["adapter"])))
    checks.append(check(pair, "greedy cached", f"{new_tokens} tokens", *mismatch(ours["tokens"], theirs["tokens"])))
    return checks


def _run(name: str, folder: Path, images: Sequence[str], num_crops: int | None, new_tokens: int) -> dict[str, Any]:
    say(f"running {folder} on {name}")
    backend = load_backend(name, folder, dtype="float32")
    prompts = PromptProcessor(folder)
    maker = ExampleMaker(prompts, backend.config, Task(), num_crops or backend.config.num_crops)
    processed = tuple(process_image(open_photo(Path(path)), maker.num_crops) for path in images)
    prompt = maker.from_images("parity", processed, None)
    answered = maker.from_images("parity", processed, _ANSWER)
    batch = collate([answered], backend.config)
    forward = backend.forward(batch, len(prompt.input_ids) - 1)
    outputs: dict[str, Any] = {"hidden_states": forward.hidden_states, "logits": forward.logits}
    if processed:
        outputs["features"] = backend.vision_features(batch.pixel_values)
    [greedy] = generate(backend, [prompt], max_new_tokens=new_tokens, stop_ids=prompts.stop_ids)
    outputs["tokens"] = greedy.token_ids
    outputs |= _train(backend, answered)
    return outputs


def _train(backend: Backend, example: Example) -> dict[str, Any]:
    adapter = AdapterArgs(r=8, lora_alpha=16)
    tensors = init_adapter(backend.config, adapter, seed=0)
    # B starts at zero, which would hide half of the gradient: a small fixed value replaces them.
    tensors = {key: np.full_like(value, 1e-3) if "lora_B" in key else value for key, value in tensors.items()}
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    losses, norms = [], []
    for _ in range(_STEPS):
        batch = collate([example], backend.config)
        losses.append(float(backend.accumulate(batch)) / batch.answer_tokens)
        norms.append(backend.update(1e-4, batch.answer_tokens, 1.0))
    return {"losses": losses, "norms": norms, "adapter": backend.adapter_tensors()}
