"""The measurement of one candidate for `scripts/bench/bench.py`, in a process of its own, so that peaks of memory are its own.

Prints one JSON line: seconds of every timed step, the process's peak of resident memory, what was computed.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.sample.brands import get_brand
from data.sample.products import draw_product
from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend, set_up
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.photo import open_photo
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from mlx_phi3v.training.feature_cache import FeatureCache
from mlx_phi3v.training.plan import matmul_gflops

OURS = ("mlx", "torch")


def example_maker(job: dict[str, Any]) -> ExampleMaker:
    """For the job's model and number of crops."""
    folder = resolve_model(job["model"])
    return ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), job["crops"])


def rows(job: dict[str, Any], *, with_answer: bool, folder: Path | None = None) -> list[Example]:
    """As many sample products as the job asks for, square photos, by the published template."""
    maker, made = example_maker(job), []
    for i in range(job["rows"]):
        product = draw_product(get_brand("sample"), 1, i)
        photo = open_photo(product.picture).resize((1000, 1000))
        key = None if folder is None else f"{i:064x}"
        image = process_image(photo, job["crops"])
        answer = Task().answer(product.row) if with_answer else None
        example = maker.from_images(str(i), (image,), answer)
        made.append(example if key is None else _keyed(example, key))
    return made


def _keyed(example: Example, key: str) -> Example:
    return replace(example, images=tuple(replace(image, key=key) for image in example.images))


def timed(steps: int, step: Callable[[int], Any]) -> dict[str, Any]:
    """Seconds of each step after one that does not count, and what the first one gave."""
    first, seconds = step(0), []
    for i in range(steps):
        began = time.perf_counter()
        step(i + 1)
        seconds.append(round(time.perf_counter() - began, 4))
    return {"seconds": seconds, "first": first}


def train_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Whole optimiser steps of one backend; `cached` takes features from disk, `vision` trains the image side too."""
    backend = load_backend(job["who"], resolve_model(job["model"]), dtype="float32")
    targets = (*LANGUAGE, *VISION, *PROJECTOR) if job.get("vision") else LANGUAGE
    adapter = AdapterArgs(r=8, lora_alpha=16, target_modules=targets)
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    options = {"grad_checkpoint": job.get("grad_checkpoint", False), "compiled": job.get("compile", False)}
    backend.start_training(OptimizerArgs(), **options)
    with tempfile.TemporaryDirectory() if job.get("cached") else nullcontext() as temporary:
        cache = FeatureCache(Path(temporary), backend, job["crops"], 20.0) if temporary else None
        examples = rows(job, with_answer=True, folder=Path(temporary) if temporary else None)
        tokens = [len(example.input_ids) for example in examples]

        def step(_: int) -> float:
            batch = collate(cache.fill(examples) if cache else examples, backend.config)
            loss = float(backend.accumulate(batch))
            backend.update(1e-4, batch.answer_tokens, 1.0)
            return loss / batch.answer_tokens

        labels = sum(int((example.labels >= 0).sum()) for example in examples) // len(examples)
        images = [e.images[0].crop_count for e in examples]
        return timed(job["steps"], step) | {"tokens": tokens, "images": images, "labels": labels}


def train_mlx_vlm(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of mlx-vlm's own loss and optimiser. The shim: its trainer calls (ids, pixels, mask), its model wants names.

    It gets the same crops and token ids. `vision` takes its default LoRA targets, which wrap the tower as well.
    """
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_vlm.trainer.peft.utils import get_peft_model
    from mlx_vlm.trainer.vlm.sft.trainer import vision_language_loss_fn
    from mlx_vlm.utils import load_model

    model = load_model(resolve_model(job["model"]))
    model.set_dtype(mx.float32)
    get_peft_model(model, None if job.get("vision") else list(LANGUAGE), rank=8, alpha=16, dropout=0.0, verbose=False)
    [example] = rows(job, with_answer=True)
    [image] = example.images
    batch = {
        "input_ids": mx.array(example.input_ids[None]),
        "pixel_values": mx.array(image.pixel_values[None]),
        "attention_mask": mx.ones((1, len(example.input_ids))),
        "image_sizes": mx.array([image.image_size]),
        "completion_mask": mx.array(example.labels[None] >= 0),
    }

    class Shim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def __call__(self, ids: mx.array, pixels: mx.array, mask: mx.array, **others: Any) -> Any:
            return self.inner(ids, pixel_values=pixels, mask=None, **others)

    shim = Shim()
    shim.train()
    optimizer = optim.AdamW(learning_rate=1e-4)
    optimizer.init(shim.trainable_parameters())
    value_and_grad = nn.value_and_grad(shim, lambda m, b: vision_language_loss_fn(m, b, train_on_completions=True)[0])

    def step(_: int) -> float:
        loss, grads = value_and_grad(shim, batch)
        optimizer.update(shim, grads)
        mx.eval(shim.trainable_parameters(), optimizer.state, loss)
        return float(loss.item())

    # The arithmetic that is needed: it also encodes blank crops and takes the logits of every token.
    labels = int((example.labels >= 0).sum())
    return timed(job["steps"], step) | {"tokens": [len(example.input_ids)], "images": [image.crop_count], "labels": labels}


def generate_ours(job: dict[str, Any]) -> dict[str, Any]:
    """Answers of exactly `new_tokens` tokens, `batch` rows at a time; `cached` has seen the photos before."""
    backend = load_backend(job["who"], resolve_model(job["model"]), dtype="float32")
    examples = rows(job, with_answer=False)
    if job.get("cached"):
        examples = [
            replace(e, images=tuple(replace(i, features=backend.vision_features(i.distinct_crops)) for i in e.images))
            for e in examples
        ]

    def answer(batch: int) -> list[list[int]]:
        ids: list[list[int]] = []
        for start in range(0, len(examples), batch):
            chunk = examples[start : start + batch]
            ids += [g.token_ids for g in generate(backend, chunk, max_new_tokens=job["new_tokens"], stop_ids=())]
        return ids

    began = time.perf_counter()
    answers = answer(job["batch"])
    seconds = time.perf_counter() - began
    # Photos seen before, so that only what a batch changes is compared, and soon.
    alone = answer(1) if job.get("check") and job.get("cached") else answers
    return {"seconds": [round(seconds, 3)], "first": None, "answers": len(answers), "same_as_batch_1": alone == answers}


def generate_mlx_vlm(job: dict[str, Any]) -> dict[str, Any]:
    """mlx-vlm's own generation loop on the same crops and ids, one answer after the other (it takes no padded batch here)."""
    import mlx.core as mx
    from mlx_vlm.generate import generate_step
    from mlx_vlm.utils import load_model

    model = load_model(resolve_model(job["model"]))
    model.set_dtype(mx.float32)
    examples = rows(job, with_answer=False)
    began = time.perf_counter()
    for example in examples:
        [image] = example.images
        pixels, sizes = mx.array(image.pixel_values[None]), mx.array([image.image_size])
        ids = mx.array(example.input_ids[None])
        made = 0
        for _ in generate_step(ids, model, pixels, None, max_tokens=job["new_tokens"], temperature=0.0, image_sizes=sizes):
            made += 1
        assert made == job["new_tokens"], made
    return {"seconds": [round(time.perf_counter() - began, 3)], "first": None, "answers": len(examples)}


def matmul_peak(job: dict[str, Any]) -> dict[str, Any]:
    """GFLOP/s of a plain fp32 product."""
    return {"seconds": [], "first": None, "gflops": round(matmul_gflops(job["who"]), 1)}


def operations(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a layer's operations at the published width, forward and with the gradient: MLX's own, then ours."""
    import mlx.core as mx
    import mlx.nn as nn

    from mlx_phi3v.backend_mlx import ops
    from mlx_phi3v.backend_mlx.cpu import attention

    tokens, crops, positions = 798, 5, 577

    def swiglu(x: mx.array) -> mx.array:
        gate, up = mx.split(x, 2, axis=-1)
        activated: mx.array = nn.silu(gate)
        return activated * up

    def fused(mask: str | None) -> Callable[..., mx.array]:
        return lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=0.1, mask=mask)

    def ours(causal: bool) -> Callable[..., mx.array]:
        return lambda x: attention.attention(x, x, x, 0.1, causal=causal)

    cases: dict[str, tuple[tuple[int, ...], list[Callable[..., mx.array]]]] = {
        "causal attention of a text layer": ((1, 32, tokens, 96), [fused("causal"), ours(True)]),
        "SwiGLU of a text layer": ((tokens, 16384), [swiglu, ops.swiglu]),
        "attention of a tower layer": ((crops, 16, positions, 64), [fused(None), ours(False)]),
        "layer norm of a tower layer": ((crops * positions, 1024), [nn.LayerNorm(1024), ops.LayerNorm(1024)]),
        "quick-GELU of a tower layer": ((crops * positions, 4096), [nn.gelu_fast_approx, ops.quick_gelu]),
    }
    weights = {name: mx.random.normal(shape) for name, shape in
               {"qkv_proj": (9216, 3072), "gate_up_proj": (16384, 3072), "down_proj": (3072, 8192)}.items()}  # fmt: skip
    for name, weight in weights.items():
        cases[f"{name}, frozen"] = ((tokens, weight.shape[1]), [lambda x, w=weight: x @ w.T])
    table = {}
    for name, (shape, functions) in cases.items():
        x = mx.random.normal(shape)
        mx.eval(x)
        table[name] = [_forward_and_gradient(function, x) for function in functions]
    return {"seconds": [], "first": None, "operations": table}


def _forward_and_gradient(function: Callable[..., Any], x: Any) -> list[float]:
    import mlx.core as mx

    return [_milliseconds(lambda: function(x)), _milliseconds(lambda: mx.grad(lambda x: function(x).square().sum())(x))]


def _milliseconds(run: Callable[[], Any], repeats: int = 5) -> float:
    import mlx.core as mx

    mx.eval(run())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        mx.eval(run())
        seconds.append(time.perf_counter() - began)
    return round(sorted(seconds)[repeats // 2] * 1e3, 1)


WORK = {
    ("train", True): train_ours, ("train", False): train_mlx_vlm,
    ("generate", True): generate_ours, ("generate", False): generate_mlx_vlm,
    ("matmul", True): matmul_peak, ("operations", True): operations,
}  # fmt: skip


def main() -> int:
    """Do the job given as JSON."""
    job = json.loads(sys.argv[1])
    if job["who"] == "mlx-vlm":
        os.environ["MLX_PHI3V_MALLOC"] = "system"  # as its users run it, but for the fast BLAS
    if job["who"] != "torch":
        set_up("mlx")  # on Linux it loads OpenBLAS before mlx: for mlx-vlm as for us
    figures = WORK[job["work"], job["who"] in OURS](job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**figures, "peak_gb": round(peak / 1e9, 2), "machine": platform.machine()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
