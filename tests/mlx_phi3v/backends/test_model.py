"""The model on both backends: the same numbers from each, whatever the shape, and for a row whatever its neighbours.

Tolerances are for fp32, of the largest magnitude: sums in another order differ by about 1e-6 a layer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.backend import Backend, OptimizerArgs, load_backend
from mlx_phi3v.batches import Batch, Example, ExampleMaker, collate
from mlx_phi3v.checkpoint.layout import expected_tensors, is_quantized, is_unused
from mlx_phi3v.config import load_model_config
from mlx_phi3v.convert import ConvertConfig, convert
from mlx_phi3v.crops import process_image
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Task
from tests.helpers.catalogue import random_picture

ANSWER = "Product: Wool scarf, Category: SCARVES, Full Price: 12.0"
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one key-value head": {"kv_heads": 1},
    "no grouping, three shards": {"kv_heads": 4, "shards": 3},
    "42-pixel patches": {"patch": 42, "vision_heads": 4},
    "global image first": {"order": "glb_sub"},
    "plain RoPE": {"long_rope": False},
    "long RoPE": {"original_max": 40},
    "wide, deep": {"hidden": 96, "heads": 3, "kv_heads": 3, "layers": 4, "vision_layers": 5, "intermediate": 160},
}
Load = Callable[[Path], Backend]
pytestmark = pytest.mark.numeric


def rows(folder: Path, images: Sequence[int] = (1, 0, 2, 3), answer: str | None = ANSWER, num_crops: int = 4) -> list[Example]:
    """Rows with that many pictures each, of different crop counts and lengths."""
    maker = ExampleMaker(PromptProcessor(folder), load_model_config(folder), Task(), num_crops)
    made = []
    for i, count in enumerate(images):
        sizes = ((120, 100), (400, 90), (90, 300))[:count]
        pictures = tuple(process_image(random_picture(w, h, seed=10 * i + w), num_crops - i % 2) for w, h in sizes)
        made.append(maker.from_images(str(i), pictures, answer and answer + " striped" * i))
    return made


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


def batch_of(folder: Path, **options: Any) -> Batch:
    return collate(rows(folder, **options), load_model_config(folder))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_both_backends_compute_the_same(make_checkpoint: Callable[..., Path], shape: dict[str, Any]) -> None:
    folder = make_checkpoint(**shape)
    config = load_model_config(folder)
    batch = batch_of(folder)
    names = [name for name in expected_tensors(config) if not is_unused(name, config)]
    outputs = {}
    for name in ("mlx", "torch"):
        pytest.importorskip(name)
        backend = load_backend(name, folder, dtype="float32")
        outputs[name] = (backend.forward(batch), backend.vision_features(batch.pixel_values), *backend.gradients(batch, names))
    (ours, features, loss, gradients), (theirs, their_features, their_loss, their_gradients) = outputs["mlx"], outputs["torch"]
    close(features, their_features, 1e-5)
    assert len(ours.hidden_states) == config.num_hidden_layers + 1
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        close(mine[batch.attention_mask], other[batch.attention_mask], 1e-4)
    close(ours.logits[batch.attention_mask], theirs.logits[batch.attention_mask], 1e-4)
    assert loss == pytest.approx(their_loss, rel=1e-5)
    largest = max(float(np.abs(gradient).max()) for gradient in their_gradients.values())
    for name in names:
        mine, other = gradients[name], their_gradients[name]
        if name.endswith("k_proj.bias"):  # softmax does not see it: its gradient is rounding only
            assert max(np.abs(mine).max(), np.abs(other).max()) < 1e-6 * largest
        else:
            close(mine, other, 1e-3)
            assert other.any(), name


def test_a_row_in_a_batch_is_what_it_is_alone(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    examples = rows(checkpoint)
    together = collate(examples, backend.config)
    forward = backend.forward(together)
    losses = []
    for i, example in enumerate(examples):
        alone = collate([example], backend.config)
        single = backend.forward(alone)
        n = len(example.input_ids)
        close(forward.logits[i, :n], single.logits[0], 1e-5)
        for mine, other in zip(forward.hidden_states, single.hidden_states, strict=True):
            close(mine[i, :n], other[0], 1e-5)
        losses.append(backend.loss(alone))
    assert backend.loss(together) == pytest.approx(sum(losses), rel=1e-5)


def test_padding_changes_no_next_token(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    questions = rows(checkpoint, answer=None)
    together, _ = backend.prefill(collate(questions, backend.config))
    for i, question in enumerate(questions):
        alone = collate([question], backend.config)
        close(together.numpy()[i], backend.forward(alone).logits[0, -1], 1e-5)
        close(together.numpy()[i], backend.prefill(alone)[0].numpy()[0], 1e-5)


def test_short_and_long_rows_choose_their_own_rope_factors(load: Load, make_checkpoint: Callable[..., Path]) -> None:
    lengths = [len(e.input_ids) for e in rows(make_checkpoint())]
    between = sorted(lengths)[1]  # two rows keep the short factors, two take the long ones
    folder = make_checkpoint(original_max=between)
    backend = load(folder)
    examples = rows(folder)
    together = backend.forward(collate(examples, backend.config)).logits
    for i, n in enumerate(lengths):
        close(together[i, :n], backend.forward(collate([examples[i]], backend.config)).logits[0], 1e-5)
    # A row at the limit takes the short factors; one token more, and all its positions are rotated by the long ones.
    [limit] = [e for e in examples if len(e.input_ids) == between][:1]
    longer = Example("longer", np.append(limit.input_ids, 9), np.append(limit.labels, 9), limit.images)
    short, long = (backend.forward(collate([e], backend.config)).logits[0, :between] for e in (limit, longer))
    assert np.abs(short - long).max() > 1e-3 * np.abs(short).max()


def test_the_photo_and_the_order_of_its_crops_matter(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    maker = ExampleMaker(PromptProcessor(checkpoint), backend.config, Task(), 4)
    picture = random_picture(300, 300, seed=3)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    logits = [
        backend.forward(collate([maker.from_images("x", (process_image(p, 4),), None)], backend.config)).logits[0, -1]
        for p in (picture, mirrored)
    ]
    assert np.abs(logits[0] - logits[1]).max() > 1e-2 * np.abs(logits[0]).max()


def trained_gradient(backend: Backend, batch: Batch, checkpointing: bool, steps: int = 2) -> list[np.ndarray]:
    adapter = AdapterArgs(r=4, lora_alpha=8)
    tensors = {k: v + 0.02 if "lora_B" in k else v for k, v in init_adapter(backend.config, adapter, 0).items()}
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=checkpointing)
    values: list[Any] = []
    for _ in range(steps):
        values.append(np.array(float(backend.accumulate(batch))))
        values.append(np.array(backend.update(1e-3, batch.answer_tokens, 1.0)))
    moments = backend.optimizer_tensors()
    return [*values, *(moments[key] for key in sorted(moments)), np.array(backend.loss(batch))]


def test_gradient_checkpointing_changes_no_gradient(load: Load, checkpoint: Path) -> None:
    batch = batch_of(checkpoint)
    plain, checkpointed = (trained_gradient(load(checkpoint), batch, on) for on in (False, True))
    for ours, theirs in zip(plain, checkpointed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * float(np.abs(theirs).max()))


def test_frozen_modules_get_no_gradient_on_torch(checkpoint: Path) -> None:
    pytest.importorskip("torch")
    backend: Any = load_backend("torch", checkpoint, dtype="float32")
    adapter = AdapterArgs(r=4, target_modules=("qkv_proj",))
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    backend.accumulate(batch_of(checkpoint))
    with_gradient = {name for name, parameter in backend.peft.named_parameters() if parameter.grad is not None}
    assert len(with_gradient) == 2 * 2 and all("qkv_proj.lora_" in name for name in with_gradient)


def test_frozen_modules_get_no_gradient_on_mlx(checkpoint: Path) -> None:
    pytest.importorskip("mlx")
    from mlx.utils import tree_flatten

    backend: Any = load_backend("mlx", checkpoint, dtype="float32")
    adapter = AdapterArgs(r=4, target_modules=("qkv_proj",))
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False)
    backend.accumulate(batch_of(checkpoint))
    names = list(dict(tree_flatten(backend.grads)))
    assert len(names) == 2 * 2 and all(".qkv_proj.lora_" in name for name in names)


@pytest.mark.parametrize(
    ("targets", "saved", "first"),
    [
        (LANGUAGE, (), {"layers.0.self_attn.qkv_proj"}),
        (LANGUAGE, ("embed_tokens",), set()),
        ((*LANGUAGE, *PROJECTOR), (), {"img_projection.0"}),
        ((*LANGUAGE, *PROJECTOR, *VISION), (), {f"vision_model.encoder.layers.0.self_attn.{x}_proj" for x in "qkv"}),
        (("o_proj",), (), set()),
    ],
)
def test_the_gradient_ends_at_the_first_layer_that_trains_on_mlx(
    checkpoint: Path, targets: tuple[str, ...], saved: tuple[str, ...], first: set[str]
) -> None:
    pytest.importorskip("mlx")
    backend: Any = load_backend("mlx", checkpoint, dtype="float32")
    adapter = AdapterArgs(r=4, target_modules=targets, modules_to_save=saved)
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    ended = {name for name, module in backend.model.named_modules() if getattr(module, "input_trains", True) is False}
    assert len(ended) == len(first) and all(any(name.endswith(one) for name in ended) for one in first)


def test_a_batch_without_photos_trains_an_adapted_tower(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    adapter = AdapterArgs(r=4)
    fresh = init_adapter(backend.config, adapter, 0)
    backend.set_adapter(adapter, fresh, trainable=True)
    backend.start_training(OptimizerArgs(weight_decay=0.0), grad_checkpoint=False)
    batch = batch_of(checkpoint, images=(0, 0))
    assert float(backend.accumulate(batch)) > 0
    assert np.isfinite(backend.update(1e-3, batch.answer_tokens, 1.0))
    for key, value in backend.adapter_tensors().items():
        if "vision" in key:
            np.testing.assert_array_equal(value, fresh[key])


def test_gradients_of_unused_tensors_are_zero(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    names = ["model.vision_embed_tokens.sub_GN", "lm_head.weight"]
    _, gradients = backend.gradients(batch_of(checkpoint, images=(0,)), names)
    assert not gradients[names[0]].any() and gradients[names[1]].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_read_alike_on_both_backends(make_checkpoint: Callable[..., Path], tmp_path: Path, bits: int) -> None:
    pytest.importorskip("mlx")
    pytest.importorskip("torch")
    source = make_checkpoint()
    convert(ConvertConfig(str(source), tmp_path / "packed", quantize=True, q_bits=bits, q_group_size=32))
    batch = batch_of(source)
    forward = {}
    for name in ("mlx", "torch"):
        backend = load_backend(name, tmp_path / "packed", dtype="float32")
        forward[name] = backend.forward(batch).logits[batch.attention_mask]
        if name == "torch":
            plain = load_backend(name, source, dtype="float32").forward(batch).logits[batch.attention_mask]
    close(forward["mlx"], forward["torch"], 1e-4)
    # Packing costs something, 16 times less with 8 bits; a wrong unpacking would give other logits altogether.
    error = np.abs(forward["torch"] - plain).max() / np.abs(plain).max()
    assert 1e-5 < error < (0.03 if bits == 8 else 0.5)


def test_a_packed_base_is_trained_alike_on_both_backends(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("mlx")
    pytest.importorskip("torch")
    convert(ConvertConfig(str(make_checkpoint()), tmp_path / "packed", quantize=True, q_bits=4, q_group_size=32))
    batch = batch_of(tmp_path / "packed")
    ours, theirs = (
        trained_gradient(load_backend(name, tmp_path / "packed", dtype="float32"), batch, False) for name in ("mlx", "torch")
    )
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, 1e-3)


def test_unpacked_values_are_those_of_mlx() -> None:
    mx = pytest.importorskip("mlx.core")
    torch = pytest.importorskip("torch")
    from mlx_phi3v.backend_torch.quantized import dequantize
    from mlx_phi3v.config import Quantization

    weight = mx.random.normal((8, 256))
    for bits in (4, 8):
        for group_size in (32, 64, 128):
            packed = mx.quantize(weight, group_size=group_size, bits=bits)
            parts = [torch.from_numpy(np.array(part)) for part in packed]
            ours = dequantize(parts[0], parts[1], parts[2], Quantization(group_size, bits))
            expected = mx.dequantize(*packed, group_size=group_size, bits=bits)
            np.testing.assert_allclose(ours.numpy(), np.array(expected), atol=1e-6)


def test_only_the_language_layers_are_packed(checkpoint: Path) -> None:
    packed = [name for name in expected_tensors(load_model_config(checkpoint)) if is_quantized(name)]
    assert len(packed) == 2 * 4 and all(name.startswith("model.layers.") for name in packed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_full(load: Load, backend_name: str, checkpoint: Path, dtype: str) -> None:
    batch = batch_of(checkpoint, images=(1, 0))
    exact = load(checkpoint).forward(batch).logits[batch.attention_mask]
    half = load_backend(backend_name, checkpoint, dtype=dtype).forward(batch).logits[batch.attention_mask]
    error = np.abs(half - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.15


def test_memory_and_device_are_told(load: Load, checkpoint: Path) -> None:
    backend = load(checkpoint)
    backend.loss(batch_of(checkpoint, images=(0,)))
    assert backend.peak_memory() > 100_000
    assert backend.device_info().keys() == {"name", "chip", "dtype", "blas", "tf32", "threads"}
    assert backend.world() == (0, 1) and backend.all_sum(np.array([1.5, 2.0])).tolist() == [1.5, 2.0]


@pytest.mark.parametrize("part", ["vision", "decoder"])
def test_gradient_checkpointing_computes_every_trained_layer_twice(load: Load, checkpoint: Path, part: str) -> None:
    backend: Any = load(checkpoint)
    module = importlib.import_module(f"mlx_phi3v.backend_{backend.name}.{part}")
    kind, call = getattr(module, "VisionLayer" if part == "vision" else "DecoderLayer"), "__call__"
    if backend.name == "torch":
        call = "forward"
    runs: list[int] = []
    whole = getattr(kind, call)

    def counted(*inputs: Any, **options: Any) -> Any:
        runs.append(1)
        return whole(*inputs, **options)

    counts = []
    batch = batch_of(checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, call, counted)
        for on in (False, True):
            trained_gradient(load(checkpoint), batch, on, steps=1)
            counts.append(len(runs))
            runs.clear()
    plain, checkpointed = counts
    losses = plain // 2  # one pass trains, one only takes the loss
    assert checkpointed == plain + losses
