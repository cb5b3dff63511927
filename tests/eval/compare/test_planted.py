"""Faults planted in a real model's run (the tiny one, on torch): each is found by the comparison and named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.sample import __main__ as sample
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.divergence import GAP, PIXELS, TOKEN_IDS
from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from eval.report.phrases import inputs
from eval.runs.run import Run
from mlx_phi3v import batches, photo
from mlx_phi3v.adapters import AdapterArgs, init_adapter, save_adapter
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config

pytest.importorskip("torch")
ROWS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue, an adapter that changes answers, and the reference run."""
    folder = tmp_path_factory.mktemp("planted")
    sample.main(["--output", str(folder / "catalogue"), "--products", "40", "--seed", "3", "--validation", "4", "--test", "20"])
    base = resolve_model("tiny")
    config, adapter = load_model_config(base), AdapterArgs(r=4, lora_alpha=4)
    tensors = init_adapter(config, adapter, seed=0)
    random = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensors[name] = random.normal(0, 0.05, tensor.shape).astype(np.float32)
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", adapter, tensors, base_fingerprint(base))
    answer(folder, "reference")
    return folder


def answer(folder: Path, name: str, **changes: Any) -> Run:
    settings = PredictConfig(
        data=folder / "catalogue", output=folder / name, backend="torch", adapter=str(folder / "adapter"), limit=ROWS,
        dtype="float32", max_new_tokens=10, num_crops=4,
    )  # fmt: skip
    predict(dataclasses.replace(settings, **changes))
    return Run.load(folder / name)


def against_reference(folder: Path, run: Run, allow: tuple[str, ...] = ()) -> Comparison:
    return compare_runs(Run.load(folder / "reference"), run, allow=allow, resamples=100)


def named(comparison: Comparison) -> list[str]:
    return [item.name for item in comparison.differences]


def test_another_batch_size_changes_nothing(folder: Path) -> None:
    found = against_reference(folder, answer(folder, "batch", batch_size=3))
    assert not found.diverged and named(found) == ["batch_size"]
    assert found.noise.largest is not None and found.noise.largest < 1e-3
    assert "identical on all 4 rows" in inputs(found)[0]


def test_an_adapter_scale_off_by_two_is_named(folder: Path) -> None:
    shutil.copytree(folder / "adapter", folder / "doubled")
    path = folder / "doubled" / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"lora_alpha": 2 * values["lora_alpha"]}))
    found = against_reference(folder, answer(folder, "scale", adapter=str(folder / "doubled")))
    assert "adapter_config.lora_alpha: 4 | 8" in [str(item) for item in found.differences]
    assert "adapter weights" not in named(found)
    assert found.cause_counts.get(GAP, 0) > 0 and set(found.cause_counts).isdisjoint({PIXELS, TOKEN_IDS})
    assert found.noise.mean is not None and found.noise.mean > 1e-3


def test_a_wrong_rope_factor_is_named(folder: Path) -> None:
    shutil.copytree(resolve_model("tiny"), folder / "rope")
    path = folder / "rope" / "config.json"
    values = json.loads(path.read_text())
    values["rope_scaling"]["short_factor"][2] *= 3
    path.write_text(json.dumps(values))
    found = against_reference(folder, answer(folder, "rope-run", model=str(folder / "rope")))
    assert "model_config.short_factor[2]" in named(found) and "base weights" not in named(found)
    assert set(found.cause_counts).isdisjoint({PIXELS, TOKEN_IDS})
    assert found.noise.mean is not None and found.noise.mean > 1e-3


def one_level_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(open_photo: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
        return lambda data, **options: open_photo(data, **options).point(lambda level: min(level + 1, 255))

    monkeypatch.setattr(photo, "open_photo", decode(photo.open_photo))


def swapped_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches.ExampleMaker.with_photos

    def swap(self: Any, row: Any, **options: Any) -> Any:
        example, photos = made(self, row, **options)
        # The global image stays first; the first two crops of the grid change places.
        images = [
            dataclasses.replace(image, pixel_values=image.pixel_values[[0, 2, 1, *range(3, len(image.pixel_values))]])
            for image in example.images
        ]
        assert all(len(image.pixel_values) > 2 for image in images)
        return dataclasses.replace(example, images=tuple(images)), photos

    monkeypatch.setattr(batches.ExampleMaker, "with_photos", swap)


@pytest.mark.parametrize(("plant", "stage"), [(one_level_off, "decoded pixels"), (swapped_crops, "model's pixel values")])
def test_other_pixels_are_named_by_the_stage_that_diverges(
    folder: Path, plant: Callable[[pytest.MonkeyPatch], None], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = against_reference(folder, answer(folder, plant.__name__))
    (line,) = inputs(found)
    assert f"first in the {stage}" in line
    assert found.inputs["pixel_values"][0] > 0 and found.inputs["input_ids"][0] == 0
    assert set(found.cause_counts) <= {PIXELS}


def test_a_trace_of_a_run_under_its_own_model_shows_no_gap(folder: Path) -> None:
    from eval.compare.cross_scores import cross_score

    again = answer(folder, "again", batch_size=1)
    answer(folder, "reference", trace=again.path)
    (direction,) = cross_score(against_reference(folder, again).data)
    assert direction.rows == ROWS and abs(direction.mean_gap) < 1e-4 and direction.diverging == 0
    assert direction.largest_kl is not None and direction.largest_kl < 1e-4
