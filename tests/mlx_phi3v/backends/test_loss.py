"""The loss of many learnt tokens: a chunk of their logits at a time, and the same numbers as all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import mlx.nn as mlx_nn
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlx_phi3v import backend_mlx, backend_torch
from mlx_phi3v.adapters import AdapterArgs, init_adapter
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.backend_mlx import loss as mlx_loss
from mlx_phi3v.backend_mlx.arrays import leaves
from mlx_phi3v.backend_mlx.lora import LoRALinear
from mlx_phi3v.backend_mlx.random_keys import KEYS
from mlx_phi3v.backend_torch import loss as torch_loss
from mlx_phi3v.prompts import IGNORE
from tests.mlx_phi3v.backends.test_model import batch_of

assert backend_mlx and backend_torch
LABELS, WIDTH, WORDS, CHUNK = 21, 16, 50, 4


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, of which the last is not full."""
    set_chunk(monkeypatch, CHUNK)


def set_chunk(patch: pytest.MonkeyPatch, size: int) -> None:
    for module in (mlx_loss, torch_loss):
        patch.setattr(module, "LABELS_AT_ONCE", size)


@pytest.fixture
def numbers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight [WORDS, WIDTH], hidden states [LABELS, WIDTH] and targets, some of which are padding."""
    targets = rng.integers(0, WORDS, LABELS)
    targets[[3, 9, 20]] = IGNORE
    return rng.normal(size=(WORDS, WIDTH)).astype(np.float32), rng.normal(size=(LABELS, WIDTH)).astype(np.float32), targets


def by_mlx(weight: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    head = mlx_nn.Linear(WIDTH, WORDS, bias=False)
    head.weight = mx.array(weight)

    def loss(parameters: dict[str, Any], x: mx.array) -> mx.array:
        head.update(parameters)
        return 3 * mlx_loss.summed_loss(head, x, mx.array(targets))

    value, (d_head, d_rows) = mx.value_and_grad(loss, argnums=(0, 1))(head.trainable_parameters(), mx.array(rows))
    assert mx.array_equal(head.weight, mx.array(weight))
    return [np.array(x) for x in (value, d_head["weight"], d_rows)]


def by_torch(weight: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    head = torch.nn.Linear(WIDTH, WORDS, bias=False)
    head.weight = torch.nn.Parameter(torch.tensor(weight))
    x = torch.tensor(rows, requires_grad=True)
    value = 3 * torch_loss.summed_loss(head, x, torch.tensor(targets))
    value.backward()
    assert head.weight.grad is not None and x.grad is not None
    return [y.detach().numpy() for y in (value, head.weight.grad, x.grad)]


@pytest.mark.numeric
@pytest.mark.parametrize("compute", [by_mlx, by_torch])
def test_chunks_give_the_loss_and_gradients_of_all_at_once(compute: Any, numbers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chunked = compute(*numbers)
    set_chunk(monkeypatch, LABELS)
    whole = compute(*numbers)
    for ours, theirs in zip(chunked, whole, strict=True):
        # The same fp32 terms, at most 21 of them in another order: 21 times 6e-8 of the largest.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1.3e-6 * float(np.abs(theirs).max()))
    assert not chunked[2][[3, 9, 20]].any() and chunked[2][[0, 19]].all()
    kept = numbers[2] != IGNORE
    without = compute(numbers[0], numbers[1][kept], numbers[2][kept])
    np.testing.assert_allclose(chunked[0], without[0], rtol=1e-6)  # padding counts nothing
    np.testing.assert_allclose(chunked[1], without[1], atol=1.3e-6 * float(np.abs(without[1]).max()))


@pytest.mark.numeric
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_trained_head_gets_the_gradient_of_the_masks_that_it_computed_with(dropout: float, numbers: Any) -> None:
    """MLX: the logits are computed twice, and dropout draws its masks twice."""
    weight, rows, targets = (mx.array(x) for x in numbers)
    linear = mlx_nn.Linear(WIDTH, WORDS, bias=False)
    linear.weight = weight
    head = LoRALinear(linear, 3, dropout, 2.0)
    head.lora_a, head.lora_b = mx.random.normal((WIDTH, 3)), mx.random.normal((3, WORDS))
    linear.freeze()

    def plain(x: mx.array) -> mx.array:
        starts = range(0, LABELS, CHUNK)
        return mx.stack([mlx_loss._loss(head, x[i : i + CHUNK], targets[i : i + CHUNK]) for i in starts]).sum()

    found = []
    for loss in (plain, lambda x: mlx_loss.summed_loss(head, x, targets)):
        KEYS.seed(5)
        value, gradients = mlx_nn.value_and_grad(head, loss)(rows)
        found.append([value, *leaves(gradients), KEYS.next()])
    assert len(found[0]) == 4
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-5, atol=1e-5 * float(mx.abs(theirs).max()))


@pytest.mark.numeric
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_trains_the_same_in_chunks(
    backend_name: str, checkpoint: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (CHUNK, 10_000):
        set_chunk(monkeypatch, size)
        backend = load_backend(backend_name, checkpoint, dtype="float32")
        adapter = AdapterArgs(r=2, target_modules=("qkv_proj", "lm_head"))
        rng = np.random.default_rng(0)  # alike numbers would make the gradient of lm_head's A zero, all of it rounding
        drawn = init_adapter(backend.config, adapter, 0).items()
        tensors = {key: value + rng.normal(0, 0.02, value.shape).astype(value.dtype) for key, value in drawn}
        backend.set_adapter(adapter, tensors, trainable=True)
        backend.start_training(OptimizerArgs(), grad_checkpoint=checkpointing)
        batch = batch_of(checkpoint)
        assert batch.answer_tokens > 3 * CHUNK
        losses = [float(backend.accumulate(batch)) for _ in range(2)]
        norm = backend.update(1e-3, batch.answer_tokens, 0.0)
        found.append([np.array([*losses, norm, backend.loss(batch)]), *backend.optimizer_tensors().values()])
    for ours, theirs in zip(*found, strict=True):
        # Sums of at most some hundred fp32 terms in another order.
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-5 * float(np.abs(theirs).max()))


@pytest.fixture
def many() -> Iterator[tuple[int, int, int, int]]:
    """Labels, width, words and labels of a chunk: 64 chunks, of which one has 256 KiB of logits."""
    yield 4096, 8, 1024, 64


def test_mlx_holds_the_logits_of_one_chunk(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, width, words, chunk = many
    head = mlx_nn.Linear(width, words, bias=False)
    rows, targets = mx.random.normal((labels, width)), mx.zeros(labels, mx.int32)
    peaks = {}
    for size in (chunk, labels):
        set_chunk(monkeypatch, size)
        mx.eval(head.parameters(), rows, targets)
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.value_and_grad(lambda x: mlx_loss.summed_loss(head, x, targets))(rows))
        mx.synchronize()
        peaks[size] = mx.get_peak_memory() - before
    one = 4 * words * chunk
    assert peaks[labels] > labels // chunk * one  # the measure sees logits
    # MLX gives memory to at most ten operations ahead, and a few results are still held; and what is as large as rows.
    assert peaks[chunk] < 16 * one + 8 * rows.nbytes + 4 * head.weight.nbytes


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor))])
        return found


def test_torch_makes_no_tensor_larger_than_a_chunk_of_logits(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, width, words, chunk = many
    head = torch.nn.Linear(width, words, bias=False)
    rows, targets = torch.randn(labels, width, requires_grad=True), torch.zeros(labels, dtype=torch.int64)
    most = {}
    for size in (chunk, labels):
        set_chunk(monkeypatch, size)
        with Largest() as largest:
            torch_loss.summed_loss(head, rows, targets).backward()
        most[size] = largest.most
    assert (most[chunk], most[labels]) == (chunk * words, labels * words)
