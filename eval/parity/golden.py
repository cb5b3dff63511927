"""Recorded outputs of the published code (see tests/golden/README.md), run again on a backend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlx_phi3v.adapters import load_adapter
from mlx_phi3v.backend import Backend, OptimizerArgs, load_backend
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import VisionArgs
from mlx_phi3v.crops import ProcessedImage, image_token_count, pad_crops, process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json
from mlx_phi3v.prompts import IGNORE, PromptProcessor

from .checks import Check, check, cosine_distance, mismatch, relative_error


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


class GoldenCase:
    """One recorded case, with its images processed by our code."""

    def __init__(self, golden: Path, case: dict[str, Any], arrays: Any) -> None:
        self.case, self.name, self.arrays = case, case["name"], arrays
        self.images: tuple[ProcessedImage, ...] = tuple(
            process_image(Image.open(golden / image), case["num_crops"]) for image in case.get("images", [])
        )
        ids = np.asarray(arrays[f"{self.name}.input_ids"]).reshape(-1).astype(np.int64)
        self.prompt_tokens: int = case["prompt_tokens"]
        learnt = (np.arange(len(ids)) >= self.prompt_tokens) & (ids >= 0)
        self.example = Example(self.name, ids, np.where(learnt, ids, IGNORE), self.images)
        self.prompt = Example(self.name, ids[: self.prompt_tokens], np.full(self.prompt_tokens, IGNORE, np.int64), self.images)

    def recorded(self, what: str) -> np.ndarray:
        """A recorded array."""
        return np.asarray(self.arrays[f"{self.name}.{what}"])


def load_cases(golden: Path) -> list[GoldenCase]:
    """All cases of a folder. Raises UserError where it is not of that form."""
    cases = read_json(golden / "cases.json", "recorded cases")
    if not (golden / "cases.npz").is_file():
        raise UserError(f"{golden} has no cases.npz; give a folder such as tests/golden")
    arrays = np.load(golden / "cases.npz")
    return [GoldenCase(golden, case, arrays) for case in cases]


def check_backend(golden: Path, name: str) -> list[Check]:
    """Every stage of every case on one backend, in the order of the computation."""
    cases = load_cases(golden)
    backend = load_backend(name, golden / "checkpoint", dtype="float32")
    checks: list[Check] = []
    for case in cases:
        checks += _check_pixels(name, case)
    for case in cases:
        checks += _check_outputs(backend, case)
    for case in cases:
        checks += _check_greedy(backend, case)
    if (golden / "training.json").is_file():
        checks += _check_training(golden, name, {case.name: case for case in cases})
    return checks


def _check_pixels(name: str, case: GoldenCase) -> list[Check]:
    recorded = case.case
    if "pixel_values_shape" not in recorded:
        return []
    sizes = [list(image.image_size) for image in case.images]
    checks = [check(name, "image sizes", case.name, *mismatch(sizes, recorded["image_sizes"]))]
    values = np.stack([pad_crops(image.pixel_values, recorded["num_crops"]) for image in case.images])
    checks.append(
        check(name, "image sizes", case.name + " shape", *mismatch(list(values.shape), recorded["pixel_values_shape"]))
    )
    sample = values.reshape(-1)[:: recorded["pixel_values_stride"]]
    expected = case.recorded("pixel_values_sample").reshape(-1)
    error = float(np.abs(sample - expected).max()) if sample.shape == expected.shape else float("inf")
    checks.append(check(name, "pixels", case.name, error))
    mean_error = abs(values.sum(dtype=np.float64) - recorded["pixel_values_sum"]) / values.size
    checks.append(check(name, "pixels", case.name + " mean", mean_error))
    return checks


def _check_outputs(backend: Backend, case: GoldenCase) -> list[Check]:
    name, recorded = backend.name, case.case
    batch = collate([case.example], backend.config)
    forward = backend.forward(batch, case.prompt_tokens - 1)
    checks = []
    # One scale for all hidden states of a case: a projected image feature is small, and the recorded one is itself 1e-4
    # of its own largest value away from what fp64 gives (the random tower amplifies rounding a hundredfold).
    largest = float(max(np.abs(case.recorded(key)).max() for key in ("hidden_last", "hidden_mid")))
    for position, key in ((len(case.example.input_ids) - 1, "hidden_last"), (len(case.example.input_ids) // 2, "hidden_mid")):
        layers = case.recorded(key).reshape(len(forward.hidden_states), -1)
        for i, (state, expected) in enumerate(zip(forward.hidden_states, layers)):
            checks.append(
                check(
                    name, "hidden states", f"{case.name} {key} layer {i}", relative_error(state[0, position], expected, largest)
                )
            )
    logits = case.recorded("logits")
    checks.append(check(name, "logits", case.name, relative_error(forward.logits[0], logits.reshape(-1, logits.shape[-1]))))
    loss, gradients = backend.gradients(batch, list(recorded["grad_norms"]))
    checks.append(check(name, "loss", case.name, abs(loss - recorded["loss"])))
    for parameter, norm in recorded["grad_norms"].items():
        error = abs(float(np.linalg.norm(gradients[parameter].astype(np.float64))) - norm) / norm
        checks.append(check(name, "gradient norms", f"{case.name} {parameter}", error))
    return checks


def _check_greedy(backend: Backend, case: GoldenCase) -> list[Check]:
    expected = case.case["greedy"]
    checks = []
    for cached in (True, False):
        [result] = generate(backend, [case.prompt], max_new_tokens=len(expected), stop_ids=(), cached=cached)
        stage = "greedy cached" if cached else "greedy uncached"
        checks.append(check(backend.name, stage, case.name, *mismatch(result.token_ids, expected)))
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
        loss = backend.accumulate(batch) / batch.answer_tokens
        norm = backend.update(lr, batch.answer_tokens, clip)
        where = f"step {step['step']}"
        checks.append(check(name, "training loss", where, abs(loss - step["loss"]) / step["loss"]))
        checks.append(check(name, "training gradient norm", where, abs(norm - step["grad_norm"]) / step["grad_norm"]))
    [after] = sorted(golden.glob("adapter_after_*"))
    expected = load_adapter(after, backend.config, fingerprint)[1]
    checks.append(check(name, "trained adapter", after.name, cosine_distance(backend.adapter_tensors(), expected)))
    return checks
