"""A training step waits once, and what is not finite updates nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.adapters import AdapterArgs, init_adapter
from mlx_phi3v.backend import Backend, OptimizerArgs
from tests.mlx_phi3v.backends.test_model import batch_of

Load = Callable[[Path], Backend]


def begin(backend: Any, **options: Any) -> Any:
    adapter = AdapterArgs(r=2, target_modules=("qkv_proj", "o_proj"))
    tensors = {key: value + 0.01 for key, value in init_adapter(backend.config, adapter, 0).items()}
    backend.set_adapter(adapter, tensors, trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=False, **options)
    return backend


def held(backend: Backend) -> dict[str, bytes]:
    """All that an update changes."""
    return {key: value.tobytes() for key, value in (backend.adapter_tensors() | backend.optimizer_tensors()).items()}


@pytest.fixture
def waits(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call that waits for the device."""
    calls: list[str] = []

    def counted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    if backend_name == "mlx":
        import mlx.core as mx

        counted(mx, "eval")
        counted(mx, "synchronize")
    else:
        import torch

        for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__"):
            counted(torch.Tensor, name)
    return calls


def test_a_step_of_several_passes_waits_once(load: Load, checkpoint: Path, waits: list[str]) -> None:
    backend: Any = load(checkpoint)
    backend.fused_optimizer = True  # torch's other one reads its step count, which is in the host's memory
    begin(backend)
    batch = batch_of(checkpoint)
    for _ in range(2):
        waits.clear()
        losses = [backend.accumulate(batch) for _ in range(3)]
        assert not waits
        norm = backend.update(1e-3, 3 * batch.answer_tokens, 1.0)
        assert waits in (["eval"], ["tolist"])
        values = [float(loss) for loss in losses]
        assert len(waits) == 1 and np.isfinite([norm, *values]).all()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_updates_nothing(load: Load, checkpoint: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = begin(load(checkpoint))
    batch = batch_of(checkpoint)
    backend.accumulate(batch)
    backend.update(1e-3, batch.answer_tokens, 1.0)
    before, token_loss = held(backend), backend.token_loss
    with monkeypatch.context() as patch:
        patch.setattr(
            backend,
            "token_loss",
            lambda *inputs: token_loss(*inputs) + float("inf") if what == "loss" else token_loss(*inputs) * float("nan"),
        )
        losses = [backend.accumulate(batch)]
    losses.append(backend.accumulate(batch))
    norm = backend.update(1e-3, batch.answer_tokens, 1.0)
    assert [bool(np.isfinite(float(loss))) for loss in losses] == [False, True]
    assert np.isfinite(norm) == (what == "loss")
    assert held(backend) == before
    backend.accumulate(batch)  # and nothing of it is left
    assert np.isfinite(backend.update(1e-3, batch.answer_tokens, 1.0)) and held(backend) != before


@pytest.mark.numeric
def test_the_fused_optimiser_trains_the_same_and_resumes(checkpoint: Path) -> None:
    """As on CUDA; torch has it for a CPU too."""
    pytest.importorskip("torch")
    from mlx_phi3v.backend import load_backend

    found: dict[bool, Any] = {}
    batch = batch_of(checkpoint)

    def steps(backend: Any, count: int) -> Any:
        for _ in range(count):
            backend.accumulate(batch)
            backend.update(1e-3, batch.answer_tokens, 1.0)
        return backend

    def fresh(fused: bool) -> Any:
        backend: Any = load_backend("torch", checkpoint, dtype="float32")
        backend.fused_optimizer = fused
        return begin(backend)

    for fused in (False, True):
        found[fused] = steps(fresh(fused), 4)
    for key, value in found[True].adapter_tensors().items():
        # Adam divides by the root of the second moment: a rounding of 1e-7 in both, four times, of steps of 1e-3.
        np.testing.assert_allclose(value, found[False].adapter_tensors()[key], atol=1e-6, err_msg=key)
    half, resumed = steps(fresh(True), 2), fresh(True)
    resumed.load_training(half.adapter_tensors(), half.optimizer_tensors(), 2)
    assert held(steps(resumed, 2)) == held(found[True])


@pytest.mark.numeric
def test_a_packed_base_and_a_loss_in_chunks_compile(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlx.core")
    from mlx_phi3v.backend import load_backend
    from mlx_phi3v.backend_mlx import loss
    from mlx_phi3v.backend_mlx.ops import on_cpu
    from mlx_phi3v.convert import ConvertConfig, convert

    if on_cpu() and not shutil.which("g++"):
        pytest.skip("MLX needs a C++ compiler on a CPU")
    convert(ConvertConfig(str(make_checkpoint()), tmp_path / "packed", quantize=True, q_bits=4, q_group_size=32))
    monkeypatch.setattr(loss, "LABELS_AT_ONCE", 64)
    batch = batch_of(tmp_path / "packed")
    assert batch.answer_tokens > 64
    found = []
    for compiled in (True, False):
        backend = begin(load_backend("mlx", tmp_path / "packed", dtype="float32"), compiled=compiled)
        losses = [float(backend.accumulate(batch)) for _ in range(2)]
        norm = backend.update(1e-3, 2 * batch.answer_tokens, 1.0)
        assert backend.compilations == compiled
        found.append([np.array([*losses, norm]), *backend.optimizer_tensors().values()])
    for ours, theirs in zip(*found, strict=True):
        # The same terms, in sums of other lengths.
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-5 * float(np.abs(theirs).max()))
