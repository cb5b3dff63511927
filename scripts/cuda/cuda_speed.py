"""Time and memory in `scripts/cuda/cuda_check.py`: training steps, answers, and transformers' own language model."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cuda_model import free, make_rows, median_seconds, peak_gb, profiled, seconds
from cuda_parts import repeatable

from mlx_phi3v import decoding as generation
from mlx_phi3v import prefix_cache
from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.batches import Batch, collate
from mlx_phi3v.training.footprint import footprint
from mlx_phi3v.training.step_shape import BatchShape, StepSettings
from mlx_phi3v.training.step_work import step_flops


@dataclass(frozen=True)
class Step:
    """One kind of training step. cached: the features of the photos are given, as by a feature cache."""

    rows: int
    cached: bool = False
    checkpointing: bool = False
    autocast: bool = False  # an experiment: LoRA's products in bf16, its weights in fp32
    profile: bool = False

    def name(self, side: str) -> str:
        """As the table shows it."""
        extra = [", checkpointing"] * self.checkpointing + [", autocast"] * self.autocast
        return f"{'features cached' if self.cached else side}, {self.rows} rows{''.join(extra)}"


LANGUAGE_STEPS = (
    Step(1, cached=True, profile=True), Step(8, cached=True, profile=True), Step(1, profile=True), Step(8),
    Step(8, cached=True, checkpointing=True), Step(8, cached=True, autocast=True),
)  # fmt: skip
IMAGE_STEPS = (Step(1, profile=True), Step(8, checkpointing=True), Step(8, profile=True), Step(8, autocast=True))
PACKED_STEPS = (Step(1), Step(8, checkpointing=True))


def load_for_training(folder: Path, targets: tuple[str, ...]) -> tuple[Any, AdapterArgs]:
    """The checkpoint in bf16 with a fresh LoRA adapter of rank 8."""
    backend = load_backend("torch", folder, dtype="bfloat16")
    adapter = AdapterArgs(r=8, lora_alpha=16, target_modules=targets)
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    return backend, adapter


def make_batch(backend: Any, folder: Path, step: Step) -> Batch:
    """The step's rows; photos with their features where these are cached."""
    rows = make_rows(folder, step.rows, with_answer=True)
    if step.cached:
        rows = [
            replace(row, images=tuple(replace(i, features=backend.vision_features(i.distinct_crops)) for i in row.images))
            for row in rows
        ]
    return collate(rows, backend.config)


def train_step(backend: Any, adapter: AdapterArgs, folder: Path, step: Step, peak: float, times: int) -> dict[str, Any]:
    """Seconds of the gradient and of the update, peak memory, and what share of the measured bf16 peak that is."""
    batch = make_batch(backend, folder, step)
    backend.start_training(OptimizerArgs(), grad_checkpoint=step.checkpointing)
    device = backend.device.type
    losses: list[float] = []

    def gradient() -> None:
        with torch.autocast(device, torch.bfloat16) if step.autocast else nullcontext():
            losses.append(float(backend.accumulate(batch)) / batch.answer_tokens)

    def both() -> None:
        gradient()
        backend.update(1e-4, batch.answer_tokens, 1.0)

    free()
    first, taken = seconds(both), median_seconds(both, times)
    figures: dict[str, Any] = {"s": taken, "peak GB": peak_gb()}
    update = median_seconds(lambda: backend.update(1e-4, batch.answer_tokens, 1.0), times, warm=1)
    tokens = batch.input_ids.shape[1]
    shape = BatchShape(step.rows, tokens, len(batch.pixel_values), batch.answer_tokens // step.rows)
    training = StepSettings(adapter, "bfloat16", step.checkpointing, encode=not step.cached)
    flops = sum(step_flops(backend.config, shape, training))
    # torch unpacks packed weights as it loads them.
    planned = footprint(replace(backend.config, quantization=None), shape, training).total / 1e9
    figures |= {"plan GB": planned, "plan / peak": planned / figures["peak GB"] if figures["peak GB"] else None}
    figures |= {"update s": update, "tokens/s": step.rows * tokens / taken, "TFLOP": flops / 1e12,
                "share of peak": flops / taken / peak, "loss": losses[0], "_first_step_s": first, "_last_loss": losses[-1],
                "_tokens_a_row": tokens, "_crops": len(batch.pixel_values), "_labels": batch.answer_tokens}  # fmt: skip
    if step.profile:
        figures |= {"_repeatable": repeatable(backend, batch)}
        if device == "cuda":
            profile = profiled(both, taken)
            figures |= {"GPU busy": profile["busy"], "_profile": profile}
    return figures


def train_cases(
    backend: Any, adapter: AdapterArgs, folder: Path, side: str, steps: tuple[Step, ...], peak: float, small: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every step as a case of its own, so that one that does not fit in memory leaves the others be."""
    times = 1 if small else 5
    for step in steps:
        step = replace(step, rows=min(step.rows, 2)) if small else step
        yield step.name(side), partial(train_step, backend, adapter, folder, step, peak, times)


def language_with_bf16_adapter(backend: Any, adapter: AdapterArgs, folder: Path, peak: float, small: bool) -> dict[str, Any]:
    """An experiment, last of its backend: LoRA's weights themselves in bf16, which spares all casts to fp32."""
    for parameter in backend.parameters.values():
        parameter.data = parameter.data.bfloat16()
    return train_step(backend, adapter, folder, Step(2 if small else 8, cached=True), peak, 1 if small else 5)


class Stopwatch:
    """Seconds spent in functions that are replaced by timed ones."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time added up under `name`."""

        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[name] += time.perf_counter() - began

        return run


def answers(backend: Any, folder: Path, rows: int, new_tokens: int, top_k: int, profile: bool) -> dict[str, Any]:
    """Answers of exactly `new_tokens` tokens through `generate`, and where the time between two tokens goes.

    model: a step of `decode` alone, timed to its end; host: what a step of the whole loop takes beside it.
    """
    examples = make_rows(folder, rows, with_answer=False)
    sampling = generation.Sampling(top_k_logged=top_k)
    free()
    generation.generate(backend, examples, max_new_tokens=3, stop_ids=(), sampling=sampling)  # warm
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner, name in ((prefix_cache, "collate"), (backend, "prefill")):
            stack.enter_context(mock.patch.object(owner, name, watch.timed(name, getattr(owner, name))))
        took = seconds(
            lambda: generation.generate(backend, examples, max_new_tokens=new_tokens, stop_ids=(), sampling=sampling)
        )
    loop = took - watch.spent["collate"] - watch.spent["prefill"]
    scores, cache = backend.prefill(collate(examples, backend.config))
    tokens = scores.greedy()
    model = median_seconds(lambda: backend.decode(cache, tokens), 5)
    step = loop / (new_tokens - 1)
    figures: dict[str, Any] = {"tokens/s": rows / step, "ms a step": 1e3 * step,
               "model ms": 1e3 * model, "host ms": 1e3 * (step - model),
               "prefill s": watch.spent["prefill"], "collate s": watch.spent["collate"], "answers/s": rows / took,
               "peak GB": peak_gb(), "_spent": dict(watch.spent), "_prompt_tokens": len(examples[0].input_ids)}  # fmt: skip
    if profile and backend.device.type == "cuda":
        figures["_profile"] = profiled(lambda: backend.decode(cache, tokens), model)
        figures["GPU busy"] = figures["_profile"]["busy"]
    return figures


def answer_cases(backend: Any, folder: Path, small: bool, note: str = "") -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Batches of answers; top 5: with the likeliest tokens logged, as `eval.predict` does."""
    sizes = (1, 2) if small else (16,) if note else (1, 16, 64)
    new = 4 if small else 64
    for rows in sizes:
        for top_k in (0, 5):
            name = f"{rows} rows{', top 5' if top_k else ''}{note}"
            yield name, partial(answers, backend, folder, rows, new, top_k, profile=not top_k)


def load_peer(config: Any, device: torch.device) -> Any:
    """transformers' own Phi3ForCausalLM of the same language model, bf16, SDPA, random weights."""
    from transformers import Phi3ForCausalLM

    from mlx_phi3v.backend_torch.decoder import phi3_config

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return Phi3ForCausalLM(phi3_config(config, "sdpa"))
    finally:
        torch.set_default_dtype(before)


def peer_step(model: Any, rows: int, tokens: int, labels: int, times: int) -> dict[str, Any]:
    """A step of the peer with PEFT's LoRA: its own loss (logits of all tokens), clipping and torch's AdamW."""
    device = next(model.parameters()).device
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens), device=device)
    targets = torch.full_like(ids, -100)
    targets[:, -labels:] = ids[:, -labels:]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), eps=1e-7, weight_decay=0.01)

    def step() -> None:
        loss = model(input_ids=ids, labels=targets, use_cache=False).loss
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    free()
    taken = median_seconds(step, times)
    return {"s": taken, "peak GB": peak_gb(), "tokens/s": rows * tokens / taken}


def peer_answers(model: Any, rows: int, tokens: int, new_tokens: int) -> dict[str, Any]:
    """The peer's own `generate`, greedy, from random prompts; per token as in `answers`."""
    ids = torch.randint(3, model.config.vocab_size, (rows, tokens), device=model.device)

    def run(new: int) -> float:
        return seconds(
            lambda: model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
            )
        )

    free()
    run(2)
    one = run(1)
    new, again = (run(new_tokens) - one for _ in range(2))
    per_step = 1e3 / (new_tokens - 1)
    return {"tokens/s": rows * (new_tokens - 1) / new, "ms a step": new * per_step,
            "ms, the same lengths again": again * per_step, "prefill s": one, "peak GB": peak_gb()}  # fmt: skip


IMAGE_TARGETS = (*LANGUAGE, *VISION, *PROJECTOR)
