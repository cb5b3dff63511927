"""One recorded case of the published code: its inputs made by our code, and its outputs computed by a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..backend import Backend
from ..batches import Example, collate
from ..crops import ProcessedImage, pad_crops, process_image
from ..decoding import generate
from ..errors import UserError
from ..files import read_json
from ..prompts import IGNORE
from .checks import Check, check, mismatch, relative_error


class GoldenCase:
    """One recorded case, with its images processed by our code."""

    def __init__(self, golden: Path, case: dict[str, Any], arrays: Any) -> None:
        self.case, self.name, self.arrays = case, case["name"], arrays
        self.images: tuple[ProcessedImage, ...] = tuple(
            process_image(Image.open(golden / image), case["num_crops"]) for image in case.get("images", [])
        )
        ids = np.asarray(arrays[f"{self.name}.input_ids"]).reshape(-1).astype(np.int64)
        self.prompt_tokens: int = case["prompt_tokens"]
        self.logits_from: int = case.get("logits_from", self.prompt_tokens - 1)  # the first position whose logits are recorded
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


def check_pixels(name: str, case: GoldenCase) -> list[Check]:
    """Crops and their sizes, made by our code, against the recorded ones; nothing where the case has no photo."""
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


def check_outputs(backend: Backend, case: GoldenCase) -> list[Check]:
    """Hidden states of two positions, logits, loss and gradient norms, in the order of the computation."""
    return [*check_forward(backend, case), *check_gradients(backend, case)]


def check_forward(backend: Backend, case: GoldenCase) -> list[Check]:
    """Hidden states of two positions, and logits."""
    name = backend.name
    batch = collate([case.example], backend.config)
    forward = backend.forward(batch, case.logits_from)
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
    return checks


def check_gradients(backend: Backend, case: GoldenCase) -> list[Check]:
    """Loss and gradient norms of the base model's tensors."""
    name, recorded = backend.name, case.case
    batch = collate([case.example], backend.config)
    loss, gradients = backend.gradients(batch, list(recorded["grad_norms"]))
    checks = [check(name, "loss", case.name, abs(loss - recorded["loss"]))]
    for parameter, norm in recorded["grad_norms"].items():
        error = abs(float(np.linalg.norm(gradients[parameter].astype(np.float64))) - norm) / norm
        checks.append(check(name, "gradient norms", f"{case.name} {parameter}", error))
    return checks


def check_greedy(backend: Backend, case: GoldenCase, ways: Sequence[bool] = (True, False)) -> list[Check]:
    """Greedy tokens, by default with the KV cache (true) and without.

    Without, every step reads the whole text again, the photos by their features: the tower makes the same of them each time.
    """
    expected = case.case["greedy"]
    checks = []
    for cached in ways:
        prompt = case.prompt if cached else with_features(backend, case.prompt)
        [result] = generate(backend, [prompt], max_new_tokens=len(expected), stop_ids=(), cached=cached)
        stage = "greedy cached" if cached else "greedy uncached"
        checks.append(check(backend.name, stage, case.name, *mismatch(result.token_ids, expected)))
    return checks


def with_features(backend: Backend, example: Example) -> Example:
    """The example with the features of its photos, all encoded in one batch, as a pass over this example does."""
    if not example.images:
        return example
    table = backend.vision_features(collate([example], backend.config).pixel_values)
    rows = [image.crop_count * backend.config.vision.merged_grid**2 for image in example.images]
    of_photos = np.split(table[:-2], np.cumsum(rows)[:-1])
    images = (
        replace(image, features=np.concatenate([own, table[-2:]])) for image, own in zip(example.images, of_photos, strict=True)
    )
    return replace(example, images=tuple(images))
