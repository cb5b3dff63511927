"""Cached photo features: the same numbers, each photo encoded once, and never those of another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.predict.answer_rows import predict
from eval.predict.settings import PredictConfig
from mlx_phi3v.adapters import AdapterArgs, init_adapter
from mlx_phi3v.backend import Backend, load_backend
from mlx_phi3v.batches import ExampleMaker, collate
from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.errors import UserError
from mlx_phi3v.photo import Photo
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.training.feature_cache import FeatureCache
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.train_config import TrainConfig

LANGUAGE_ONLY = AdapterArgs(r=4, lora_alpha=8, target_modules=("qkv_proj", "o_proj"))


@pytest.fixture
def backend(checkpoint: Path, backend_name: str) -> Backend:
    return load_backend(backend_name, checkpoint, dtype="float32")


@pytest.fixture
def config(checkpoint: Path, small_catalogue: Path, tmp_path: Path, backend_name: str) -> TrainConfig:
    """Eight steps of 3 rows: two epochs, the image side frozen."""
    return TrainConfig(
        data=small_catalogue, output=tmp_path / "run", model=str(checkpoint), backend=backend_name, dtype="float32",
        max_steps=8, batch_size=3, learning_rate=5e-3, warmup_steps=2, r=4, lora_alpha=8, vision="off", projector="off",
        num_crops=2, steps_per_report=1, steps_per_eval=4, val_rows=3, save_every=4,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record[key] for record in records for key in ("loss", "val_loss") if key in record]


@pytest.mark.numeric
def test_training_on_cached_features_gives_the_same_losses(config: TrainConfig, tmp_path: Path) -> None:
    train(config)
    train(replace(config, output=tmp_path / "cached", feature_cache=tmp_path / "features"))
    # Pictures are encoded one by one instead of a batch at a time: fp32 sums in another order.
    np.testing.assert_allclose(losses(tmp_path / "cached"), losses(config.output), rtol=1e-6)


def test_a_photo_is_encoded_once(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[FeatureCache] = []
    original = FeatureCache.__init__

    def kept(self: FeatureCache, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        caches.append(self)

    monkeypatch.setattr(FeatureCache, "__init__", kept)
    config = replace(config, feature_cache=tmp_path / "features")
    train(config)
    train(replace(config, output=tmp_path / "again"))
    catalogue = Catalogue(config.data)
    pictures = {path for split in ("train", "validation") for row in catalogue.split(split) for path in row["images"]}
    assert caches[0].made == len(pictures)
    assert caches[1].made == 0 and caches[1].found > 0
    assert losses(tmp_path / "again") == losses(config.output)


def test_a_run_that_trains_the_image_side_refuses_a_feature_cache(config: TrainConfig, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"vision": "lora"}, {"projector": "full"}, {"separators": "full"}]
    for change in changes:
        with pytest.raises(UserError, match="--feature-cache caches what the image side computes"):
            train(replace(config, feature_cache=tmp_path / "features", **change))


def test_whatever_features_depend_on_is_in_their_key(
    backend: Backend, backend_name: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = AdapterArgs(r=4, lora_alpha=8)
    tensors = init_adapter(backend.config, adapter, seed=0)
    changed = {name: value + 1 for name, value in tensors.items()}
    others = [
        FeatureCache(tmp_path, backend, 2, 1.0),
        FeatureCache(tmp_path, backend, 3, 1.0),
        FeatureCache(tmp_path, load_backend(backend_name, make_checkpoint(seed=1), dtype="float32"), 2, 1.0),
        FeatureCache(tmp_path, load_backend(backend_name, backend.folder, dtype="bfloat16"), 2, 1.0),
        FeatureCache(tmp_path, backend, 2, 1.0, (adapter, tensors)),
        FeatureCache(tmp_path, backend, 2, 1.0, (adapter, changed)),
        FeatureCache(tmp_path, backend, 2, 1.0, (replace(adapter, lora_alpha=16), tensors)),
    ]
    assert len({cache.folder for cache in others}) == len(others)
    language = init_adapter(backend.config, LANGUAGE_ONLY, seed=0)
    assert FeatureCache(tmp_path, backend, 2, 1.0, (LANGUAGE_ONLY, language)).folder == others[0].folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_features_come_back_bit_for_bit(
    dtype: str, checkpoint: Path, backend_name: str, small_catalogue: Path, tmp_path: Path
) -> None:
    backend = load_backend(backend_name, checkpoint, dtype=dtype)
    cache = FeatureCache(tmp_path / "features", backend, 2, 1.0)
    maker = ExampleMaker(PromptProcessor(checkpoint), backend.config, Catalogue(small_catalogue).task, 2, process=cache.image)
    rows = [Catalogue(small_catalogue).split("train")[i] for i in range(6)]
    first = collate(cache.fill([maker(row, with_answer=True) for row in rows]), backend.config)
    again = collate([maker(row, with_answer=True) for row in rows], backend.config)
    assert first.features is not None and again.features is not None and len(again.pixel_values) == 0
    np.testing.assert_array_equal(again.features, first.features)


def test_a_corrupt_file_is_encoded_again(backend: Backend, small_catalogue: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, backend, 2, 1.0)
    [path] = Catalogue(small_catalogue).split("train")[0]["images"]
    task = Catalogue(small_catalogue).task
    maker = ExampleMaker(PromptProcessor(backend.folder), backend.config, task, 2, process=cache.image)
    row = Catalogue(small_catalogue).split("train")[0]
    [whole] = cache.fill([maker(row, with_answer=True)])
    [file] = cache.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert cache.image(Photo.read(path)).features is None
    [again] = cache.fill([maker(row, with_answer=True)])
    np.testing.assert_array_equal(again.images[0].features, whole.images[0].features)
    assert cache.image(Photo.read(path)).features is not None


def test_the_folder_stays_within_its_limit(backend: Backend, small_catalogue: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, backend, 2, limit_gb=1e-5)
    task = Catalogue(small_catalogue).task
    maker = ExampleMaker(PromptProcessor(backend.folder), backend.config, task, 2, process=cache.image)
    examples = [maker(row, with_answer=True) for row in Catalogue(small_catalogue).split("train")]
    completed = cache.fill(examples)
    cached = list(cache.folder.glob("*.safetensors"))
    assert all(image.features is not None for example in completed for image in example.images)
    assert 0 < len(cached) < sum(len(example.images) for example in examples)
    assert cache.bytes <= 1e4 and cache.full and "are full" in cache.summary()


def test_answers_from_cached_features_are_the_same(
    checkpoint: Path, backend_name: str, small_catalogue: Path, tmp_path: Path
) -> None:
    config = PredictConfig(
        data=small_catalogue,
        output=tmp_path / "plain",
        model=str(checkpoint),
        backend=backend_name,
        num_crops=2,
        max_new_tokens=8,
    )
    predict(config)
    for name in ("first", "second"):
        predict(replace(config, output=tmp_path / name, feature_cache=tmp_path / "features"))
    plain, first, second = (
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("plain", "first", "second")
    )
    for other in (first, second):
        assert [(r["id"], r["token_ids"], r["fingerprints"]) for r in other] == [
            (r["id"], r["token_ids"], r["fingerprints"]) for r in plain
        ]
