"""Recorded outputs of the published code (see tests/golden/README.md), run again on a backend."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from mlx_phi3v.adapters import load_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.batches import collate
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import VisionArgs
from mlx_phi3v.crops import image_token_count, process_image
from mlx_phi3v.files import read_json
from mlx_phi3v.golden.cases import GoldenCase, check_greedy, check_outputs, check_pixels, load_cases
from mlx_phi3v.golden.checks import Check, check, cosine_distance, mismatch
from mlx_phi3v.prompts import PromptProcessor


def check_tokens(golden: Path, tokenizers: Path) -> list[Check]:
    """Token ids of every prompt of `tokens.json`, by the real tokenizers; none where either is absent."""
    if not (golden / "tokens.json").is_file() or not tokenizers.is_dir():
        return []
    checks = []
    for model, entry in read_json(golden / "tokens.json", "recorded token ids").items():
        if not (tokenizers / model / "tokenizer.json").is_file():
            continue
        prompts = PromptProcessor(tokenizers / model)
        width, height = entry["image_size"]
        grid = process_image(Image.new("RGB", (width, height)), entry["num_crops"]).grid
        count = image_token_count(grid, VisionArgs())
        for case in entry["cases"]:
            ids = prompts.tokenize(case["text"], [count] * case["num_images"])
            expected = [i for run in case["input_ids_rle"] for i in ([run[0]] * run[1] if isinstance(run, list) else [run])]
            checks.append(check("shared", "token ids", f"{model} {case['name']}", *mismatch(ids, expected)))
    return checks


def check_backend(golden: Path, name: str) -> list[Check]:
    """Every stage of every case on one backend, in the order of the computation."""
    cases = load_cases(golden)
    backend = load_backend(name, golden / "checkpoint", dtype="float32")
    checks: list[Check] = []
    for case in cases:
        checks += check_pixels(name, case)
    for case in cases:
        checks += check_outputs(backend, case)
    for case in cases:
        checks += check_greedy(backend, case)
    if (golden / "training.json").is_file():
        checks += _check_training(golden, name, {case.name: case for case in cases})
    return checks


def optimizer_settings(text: str) -> tuple[float, OptimizerArgs, float]:
    """(learning rate, optimiser, clip) of training.json's description."""
    number = r"([0-9.]+(?:e-?\d+)?)"

    def find(pattern: str, default: str) -> str:
        found = re.search(pattern, text)
        return found.group(1) if found else default

    betas = re.search(rf"betas=\({number}, ?{number}\)", text)
    optimizer = OptimizerArgs(
        (float(betas.group(1)), float(betas.group(2))) if betas else (0.9, 0.999),
        float(find(rf"eps={number}", "1e-8")),
        float(find(rf"weight_decay={number}", "0.01")),
    )
    return float(find(rf"lr={number}", "1e-3")), optimizer, float(find(rf"clip {number}", "0"))


def _check_training(golden: Path, name: str, cases: dict[str, GoldenCase]) -> list[Check]:
    recorded = read_json(golden / "training.json", "recorded training")
    lr, optimizer, clip = optimizer_settings(recorded["optimizer"])
    backend = load_backend(name, golden / "checkpoint", dtype="float32")
    fingerprint = base_fingerprint(golden / "checkpoint")
    adapter, tensors = load_adapter(golden / "adapter_init", backend.config, fingerprint)
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(optimizer, grad_checkpoint=False)
    checks = []
    for step in recorded["steps"]:
        batch = collate([cases[step["case"]].example], backend.config)
        loss = float(backend.accumulate(batch)) / batch.answer_tokens
        norm = backend.update(lr, batch.answer_tokens, clip)
        where = f"step {step['step']}"
        checks.append(check(name, "training loss", where, abs(loss - step["loss"]) / step["loss"]))
        checks.append(check(name, "training gradient norm", where, abs(norm - step["grad_norm"]) / step["grad_norm"]))
    [after] = sorted(golden.glob("adapter_after_*"))
    expected = load_adapter(after, backend.config, fingerprint)[1]
    checks.append(check(name, "trained adapter", after.name, cosine_distance(backend.adapter_tensors(), expected)))
    return checks
