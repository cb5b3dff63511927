"""Adapters are PEFT's: the same start on both backends, loaded by either and by peft, refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_phi3v import adapters
from mlx_phi3v.adapters import (
    LANGUAGE,
    PREFIX,
    PROJECTOR,
    SEPARATORS,
    VISION,
    AdapterArgs,
    adapter_shapes,
    init_adapter,
    load_adapter,
    save_adapter,
)
from mlx_phi3v.backend import Backend, OptimizerArgs, load_backend
from mlx_phi3v.batches import Batch, Example, ExampleMaker, collate
from mlx_phi3v.checkpoint.fingerprint import base_fingerprint
from mlx_phi3v.config import load_model_config
from mlx_phi3v.crops import process_image
from mlx_phi3v.decoding import generate
from mlx_phi3v.errors import UserError
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture
from tests.helpers.paths import GOLDEN
from tests.helpers.tolerances import NETWORK, assert_near

FULL = replace(AdapterArgs(r=4, lora_alpha=8), target_modules=(*LANGUAGE, *VISION), modules_to_save=(*PROJECTOR, *SEPARATORS))
Load = Callable[[Path], Backend]
pytestmark = pytest.mark.numeric


def examples(folder: Path, with_answer: bool) -> list[Example]:
    """Three rows: a picture, two pictures, none."""
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), num_crops=2)
    pictures = [process_image(random_picture(300, 140 + 100 * i, seed=i), 2) for i in range(2)]
    answer = "Product: Wool scarf, Category: SCARVES, Full Price: 12.0" if with_answer else None
    return [maker.from_images(str(n), tuple(pictures[:n]), answer) for n in (1, 2, 0)]


def batch_of(folder: Path) -> Batch:
    return collate(examples(folder, with_answer=True), load_model_config(folder))


def filled(folder: Path, adapter: AdapterArgs, seed: int = 0) -> dict[str, np.ndarray]:
    """An adapter whose every tensor differs from what it starts as."""
    config = load_model_config(folder)
    random = np.random.default_rng(seed)
    tensors = init_adapter(config, adapter, seed)
    for key, shape in adapter_shapes(config, adapter).tensors.items():
        if key not in tensors or "lora_B" in key:
            tensors[key] = (0.2 * random.standard_normal(shape)).astype(np.float32)
    return tensors


def same_outputs(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Not to the bit: a tower that trains takes all crops in one product, and kernels split sums by the product's shape."""
    assert_near(ours, theirs, float(np.abs(theirs).max()), NETWORK)


def trained(backend: Backend, folder: Path, adapter: AdapterArgs, steps: int = 3) -> dict[str, np.ndarray]:
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, seed=5), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    batch = batch_of(folder)
    for _ in range(steps):
        backend.accumulate(batch)
        backend.update(2e-2, batch.answer_tokens, 1.0)
    return backend.adapter_tensors()


def greedy(backend: Backend, folder: Path) -> list[list[int]]:
    answers = generate(backend, examples(folder, with_answer=False), max_new_tokens=12, stop_ids=())
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("adapter", [AdapterArgs(r=4), FULL], ids=["lora", "full"])
def test_both_backends_start_from_the_same_tensors(load: Load, checkpoint: Path, adapter: AdapterArgs) -> None:
    backend = load(checkpoint)
    fresh = init_adapter(backend.config, adapter, seed=3)
    backend.set_adapter(adapter, fresh, trainable=True)
    held = backend.adapter_tensors()
    assert held.keys() == adapter_shapes(backend.config, adapter).tensors.keys()
    for key, value in fresh.items():
        np.testing.assert_array_equal(held[key], value)
    base = load_file(checkpoint / "model.safetensors")
    for key in held.keys() - fresh.keys():
        name = key.removeprefix(PREFIX)
        np.testing.assert_array_equal(held[key], base[name.removesuffix(".weight") if "_GN" in name else name])


def test_a_fresh_adapter_depends_on_its_seed_and_bounds(checkpoint: Path) -> None:
    config = load_model_config(checkpoint)
    first, again, other = (init_adapter(config, AdapterArgs(r=4), seed) for seed in (0, 0, 1))
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        if "lora_A" in key:
            assert not np.array_equal(value, other[key])
            assert 0.5 / np.sqrt(value.shape[1]) < np.abs(value).max() <= 1 / np.sqrt(value.shape[1])
        else:
            assert not value.any()


def test_a_fresh_adapter_changes_nothing_and_a_filled_one_does(load: Load, checkpoint: Path) -> None:
    base, fresh, tuned = load(checkpoint), load(checkpoint), load(checkpoint)
    adapter = AdapterArgs(r=4)
    fresh.set_adapter(adapter, init_adapter(base.config, adapter, 0), trainable=False)
    tuned.set_adapter(adapter, filled(checkpoint, adapter), trainable=False)
    plain, same, other = (backend.forward(batch_of(checkpoint)).logits for backend in (base, fresh, tuned))
    np.testing.assert_array_equal(plain, same)
    assert np.abs(other - plain).max() > 0.05 * np.abs(plain).max()


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft's "all-linear" takes lm_head too, which starts at zero
@pytest.mark.parametrize(
    "adapter",
    [
        AdapterArgs(r=4, lora_alpha=8),
        FULL,
        replace(FULL, use_rslora=True),
        AdapterArgs(r=2, lora_alpha=4, target_modules=r".*layers\.1\..*(qkv_proj|down_proj)"),
        AdapterArgs(r=2, lora_alpha=4, target_modules="all-linear"),
        AdapterArgs(r=2, lora_alpha=4, target_modules=(*LANGUAGE, "lm_head")),
        AdapterArgs(r=2, lora_alpha=4, target_modules=LANGUAGE, modules_to_save=("model.embed_tokens", "lm_head")),
    ],
    ids=["lora", "full", "rslora", "regex", "all-linear", "lm_head", "embeddings"],
)
def test_peft_loads_a_saved_adapter_and_computes_what_both_backends_do(
    checkpoint: Path, tmp_path: Path, adapter: AdapterArgs
) -> None:
    pytest.importorskip("torch")
    from peft import PeftModel

    from mlx_phi3v.backend import load_backend

    tensors = filled(checkpoint, adapter)
    save_adapter(tmp_path, adapter, tensors, base_fingerprint(checkpoint))
    batch = batch_of(checkpoint)
    logits = {}
    for name in ("mlx", "torch", "peft"):
        backend: Any = load_backend("torch" if name == "peft" else name, checkpoint, dtype="float32")
        if name == "peft":
            PeftModel.from_pretrained(backend.model, str(tmp_path)).eval()  # wraps the model's layers in place
        else:
            loaded = load_adapter(tmp_path, backend.config, base_fingerprint(checkpoint))
            assert set(loaded[0].target_modules) == set(adapter.target_modules)
            backend.set_adapter(*loaded, trainable=False)
            held = backend.adapter_tensors()
            assert held.keys() == tensors.keys()
            for key, value in tensors.items():
                np.testing.assert_array_equal(held[key], value)
        logits[name] = backend.forward(batch).logits
    largest = np.abs(logits["peft"]).max()
    np.testing.assert_array_equal(logits["torch"], logits["peft"])
    np.testing.assert_allclose(logits["mlx"][batch.attention_mask], logits["peft"][batch.attention_mask], atol=1e-4 * largest)


@pytest.mark.parametrize("adapter", [AdapterArgs(r=4, lora_alpha=8), FULL], ids=["lora", "full"])
def test_an_adapter_trained_on_one_backend_answers_alike_on_the_other(
    load: Load, backend_name: str, checkpoint: Path, tmp_path: Path, adapter: AdapterArgs
) -> None:
    from mlx_phi3v.backend import load_backend

    here = load(checkpoint)
    plain = greedy(here, checkpoint)
    tensors = trained(here, checkpoint, adapter)
    save_adapter(tmp_path, adapter, tensors, base_fingerprint(checkpoint))
    expected = greedy(here, checkpoint)
    there = load_backend("torch" if backend_name == "mlx" else "mlx", checkpoint, dtype="float32")
    there.set_adapter(*load_adapter(tmp_path, there.config, base_fingerprint(checkpoint)), trainable=False)
    assert greedy(there, checkpoint) == expected != plain


@pytest.mark.parametrize("adapter", [AdapterArgs(r=4), FULL], ids=["lora", "full"])
def test_only_the_adapter_is_trained(load: Load, checkpoint: Path, adapter: AdapterArgs) -> None:
    backend = load(checkpoint)
    before = load(checkpoint).forward(batch_of(checkpoint)).logits
    tensors = trained(backend, checkpoint, adapter, steps=1)
    start = init_adapter(backend.config, adapter, seed=5)
    base = load_file(checkpoint / "model.safetensors")
    for key, value in tensors.items():
        name = key.removeprefix(PREFIX)
        old = start[key] if key in start else base[name.removesuffix(".weight") if "_GN" in name else name]
        assert not np.array_equal(value, old) or "lora_A" in key, key  # A's gradient is zero while B is
    # With the adapter's own values taken back, nothing else has moved.
    untouched = {k: start[k] if k in start else base[n.removesuffix(".weight") if "_GN" in n else n]
                 for k in tensors for n in (k.removeprefix(PREFIX),)}  # fmt: skip
    backend.load_training(untouched, backend.optimizer_tensors(), 1)
    backend.loss(batch_of(checkpoint))
    same_outputs(backend.forward(batch_of(checkpoint)).logits, before)


def with_dropout(backend: Backend, folder: Path, *, trainable: bool) -> None:
    """Put an adapter with much dropout on the model."""
    adapter = AdapterArgs(r=4, lora_alpha=8, lora_dropout=0.5)
    backend.set_adapter(adapter, filled(folder, adapter), trainable=trainable)


def test_an_adapter_that_is_not_trained_answers_without_dropout(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    with_dropout(backend, checkpoint, trainable=False)
    batch = batch_of(checkpoint)
    first = backend.forward(batch).logits
    same_outputs(backend.forward(batch).logits, first)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_loss_has_no_dropout_and_leaves_the_models_mode(load: Load, checkpoint: Path, trainable: bool) -> None:
    backend: Any = load(checkpoint)
    batch = batch_of(checkpoint)
    assert not backend.model.training
    backend.loss(batch)
    assert not backend.model.training  # without an adapter
    with_dropout(backend, checkpoint, trainable=trainable)
    model = backend.model if backend.name == "mlx" else backend.peft
    modes = [module.training for module in model.modules()]
    assert set(modes) == {trainable}
    assert backend.loss(batch) == pytest.approx(backend.loss(batch), rel=NETWORK)
    assert [module.training for module in model.modules()] == modes


def test_the_mode_comes_back_where_the_loss_fails(load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = load(checkpoint)
    with_dropout(backend, checkpoint, trainable=True)
    monkeypatch.setattr(backend, "token_loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backend.loss(batch_of(checkpoint))
    assert backend.model.training


def test_moments_are_stored_under_the_adapters_keys(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    tensors = trained(backend, checkpoint, FULL)
    moments = backend.optimizer_tensors()
    assert moments.keys() == {f"{key}.{kind}" for key in tensors for kind in ("exp_avg", "exp_avg_sq")}
    for key, value in tensors.items():
        assert moments[key + ".exp_avg"].shape == moments[key + ".exp_avg_sq"].shape == value.shape
        assert moments[key + ".exp_avg"].any() and (moments[key + ".exp_avg_sq"] >= 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_foreign_adapter_of_half_precision_loads(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    adapter = AdapterArgs(r=4)
    tensors = filled(checkpoint, adapter)
    save_adapter(tmp_path, adapter, tensors, "")
    half = {key: torch.from_numpy(value).to(getattr(torch, dtype)) for key, value in tensors.items()}
    save_torch(half, tmp_path / adapters.WEIGHTS_FILE, {"format": "pt"})
    _, loaded = load_adapter(tmp_path, load_model_config(checkpoint), "any")
    for key, value in half.items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], value.float().numpy())


def test_an_adapter_made_by_peft_itself_loads(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model

    from mlx_phi3v.backend_torch.loading import load as load_torch

    model = load_torch(checkpoint, dtype="float32").model
    # As peft's users write them: LoRA on the language model and all of the tower, also its last layer, which is never run.
    made = get_peft_model(model, LoraConfig(r=3, target_modules=[*LANGUAGE, *VISION], modules_to_save=["lm_head"]))
    made.save_pretrained(str(tmp_path))
    adapter, tensors = load_adapter(tmp_path, load_model_config(checkpoint), "any")
    assert adapter.r == 3 and tensors.keys() == adapter_shapes(load_model_config(checkpoint), adapter).tensors.keys()


def test_the_recorded_adapter_of_the_published_model_loads() -> None:
    config = load_model_config(GOLDEN / "checkpoint")
    adapter, tensors = load_adapter(GOLDEN / "adapter_init", config, base_fingerprint(GOLDEN / "checkpoint"))
    assert adapter.scale == 2.0 and {key.split(".")[-3] for key in tensors} == set(LANGUAGE)


@pytest.fixture
def saved(checkpoint: Path, tmp_path: Path) -> Path:
    adapter = AdapterArgs(r=4, base_model_name_or_path="my-base")
    save_adapter(tmp_path / "adapter", adapter, filled(checkpoint, adapter), base_fingerprint(checkpoint))
    return tmp_path / "adapter"


def test_an_adapter_for_another_base_is_refused(saved: Path, make_checkpoint: Callable[..., Path]) -> None:
    other = make_checkpoint(seed=1)
    with pytest.raises(
        UserError, match=r"adapter .* was trained on another base model \(my-base, fingerprint .*give the --model"
    ):
        load_adapter(saved, load_model_config(other), base_fingerprint(other))


def test_an_adapter_of_another_shape_is_refused(saved: Path, make_checkpoint: Callable[..., Path], checkpoint: Path) -> None:
    other = make_checkpoint(layers=3, intermediate=128)
    with pytest.raises(UserError, match=r"does not fit this model: .*layers\.2.*is it for another base"):
        load_adapter(saved, load_model_config(other), base_fingerprint(checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"qkv_proj": 8}}, r"the model asks for \[8, 64\]"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
        ({"target_modules": ["nothing"]}, "no module of the model matches"),
        ({"target_modules": ["qkv_proj"]}, "extra "),
        ({"r": 8}, r"is \[4, 64\], the model asks for \[8, 64\]"),
        ({"layers_to_transform": [0]}, r"extra .*layers\.1\."),
    ],
)
def test_an_adapter_that_would_load_wrongly_is_refused(
    saved: Path, checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    path = saved / adapters.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        load_adapter(saved, load_model_config(checkpoint), base_fingerprint(checkpoint))


def test_a_corrupt_adapter_is_named(saved: Path, checkpoint: Path) -> None:
    config, fingerprint = load_model_config(checkpoint), base_fingerprint(checkpoint)
    weights = saved / adapters.WEIGHTS_FILE
    whole = weights.read_bytes()
    for data in (whole[:-7], whole[:20], b""):
        weights.write_bytes(data)
        with pytest.raises(UserError, match=r"adapter_model\.safetensors is (corrupt|truncated)"):
            load_adapter(saved, config, fingerprint)
    weights.unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(saved, config, fingerprint)
    (saved / adapters.CONFIG_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json is not a LoRA configuration"):
        load_adapter(saved, config, fingerprint)
    shutil.rmtree(saved)
    with pytest.raises(UserError, match=r"--adapter .*adapter is neither an adapter nor a training run"):
        load_adapter(saved, config, fingerprint)


def test_a_missing_tensor_is_named(saved: Path, checkpoint: Path) -> None:
    tensors = load_file(saved / adapters.WEIGHTS_FILE)
    name = sorted(tensors)[3]
    del tensors[name]
    save_file(tensors, saved / adapters.WEIGHTS_FILE)
    with pytest.raises(UserError, match=f"missing {name}"):
        load_adapter(saved, load_model_config(checkpoint), base_fingerprint(checkpoint))


def test_the_tower_is_adapted_only_where_it_is_read(checkpoint: Path) -> None:
    config = load_model_config(checkpoint)
    modules = adapter_shapes(config, AdapterArgs()).modules
    assert any("encoder.layers.1." in name for name in modules) and not any("encoder.layers.2." in name for name in modules)
    assert AdapterArgs().trains_image_side(config)
    assert not AdapterArgs(target_modules=LANGUAGE).trains_image_side(config)
    assert AdapterArgs(target_modules=LANGUAGE, modules_to_save=SEPARATORS).trains_image_side(config)


def test_dropout_does_nothing_to_an_answer(load: Callable[[Path], Any], checkpoint: Path) -> None:
    adapter = replace(FULL, lora_dropout=0.5)
    logits = []
    for config in (FULL, adapter, adapter):
        backend = load(checkpoint)
        backend.set_adapter(config, filled(checkpoint, FULL), trainable=False)
        logits.append(backend.forward(batch_of(checkpoint)).logits)
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[1], logits[2])


def test_answers_of_a_model_in_training_have_no_dropout(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    backend.set_adapter(replace(FULL, lora_dropout=0.5), filled(checkpoint, FULL), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    batch = batch_of(checkpoint)
    first, again = (backend.forward(batch).logits for _ in range(2))
    np.testing.assert_array_equal(first, again)
    prompts = collate(examples(checkpoint, with_answer=False), backend.config)
    np.testing.assert_array_equal(backend.prefill(prompts)[0].numpy(), backend.prefill(prompts)[0].numpy())
    assert len({float(backend.accumulate(batch)) for _ in range(4)}) > 1  # and training still has it


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_modules_trained_in_full_work_on_a_base_of_half_precision(backend_name: str, checkpoint: Path, dtype: str) -> None:
    batch = batch_of(checkpoint)
    logits = {}
    for name in (dtype, "float32"):
        backend = load_backend(backend_name, checkpoint, dtype=name)
        backend.set_adapter(FULL, filled(checkpoint, FULL), trainable=True)
        backend.start_training(OptimizerArgs(), grad_checkpoint=False)
        assert np.isfinite(float(backend.accumulate(batch))) and np.isfinite(backend.update(1e-3, batch.answer_tokens, 1.0))
        logits[name] = backend.forward(batch).logits[batch.attention_mask]
    # bf16 holds 8 bits: 2^-8 a rounding, and a dozen layers of them; fp16 holds more.
    assert np.abs(logits[dtype] - logits["float32"]).max() < 0.15 * np.abs(logits["float32"]).max()
