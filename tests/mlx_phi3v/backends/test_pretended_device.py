"""torch on a device that shares no memory with the CPU: nothing mixes the two, and the host waits no more often than it must.

There is none here: `tests/helpers/pretend_device.py` labels what would be on it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from mlx_phi3v import chunks
from mlx_phi3v.adapters import LANGUAGE, PROJECTOR, VISION, AdapterArgs, init_adapter
from mlx_phi3v.answer_batch import AnswerBatch, RowState
from mlx_phi3v.backend import OptimizerArgs, load_backend
from mlx_phi3v.backend_torch import speed
from mlx_phi3v.backend_torch.device import describe
from mlx_phi3v.backend_torch.kernels import Kernels
from mlx_phi3v.batches import Example, collate
from mlx_phi3v.doctor.examine import FIVE_CROPS, FOLDER, GRADIENTS, PHOTO, Examination
from mlx_phi3v.doctor.kernels import check_kernels
from mlx_phi3v.doctor.packing import write_packed
from mlx_phi3v.doctor.speed import NARROW
from mlx_phi3v.golden.cases import check_forward, check_gradients, check_greedy, load_cases
from mlx_phi3v.prefix_cache import LEAST, PrefixCache
from mlx_phi3v.sampling import Sampling
from tests.helpers.paths import ROOT
from tests.helpers.pretend_device import Labels, pretended

DRAWN = Sampling(1.0, 0.9, top_k_logged=5)


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Labels]:
    """Both kinds of device, one after the other."""
    monkeypatch.delenv("MLX_PHI3V_TORCH_DEVICE", raising=False)
    with pretended(request.param) as labels:
        yield labels


def text(row: str, tokens: int, answer: int = 0) -> Example:
    """A text without a photo, of which the last tokens are learnt."""
    ids = np.arange(tokens) % 50 + 7
    return Example(row, ids, np.where(np.arange(tokens) >= tokens - answer, ids, -100), ())


def test_the_pretended_device_refuses_what_a_real_one_would(device: Labels) -> None:
    there, here = torch.arange(6.0, device=device.device).reshape(2, 3), torch.ones(3)
    assert there.device == device.device and here.device == torch.device("cpu")
    assert (there * 2).sum(0)[1:].device == device.device and not device.waits
    with pytest.raises(RuntimeError, match="on the same device"):
        there + here
    with pytest.raises(RuntimeError, match="on the same device"):
        there @ here
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there * torch.tensor(2.0)).device == device.device  # torch takes a CPU's number
    assert not device.waits
    assert there[there > 4].tolist() == [5.0] and float(there[0, 1]) == 1 and there.cpu().numpy()[1, 2] == 5
    assert there[:, [0]].shape == (2, 1)
    there[0] = here
    there += torch.ones(3).to(device.device)
    names = ("index", "tolist", "_local_scalar_dense", "to the CPU", "index from the CPU", "copy_", "to the device")
    assert {name: device.waits[name] > 0 for name in names} == dict.fromkeys(names, True)
    if device.device.type == "mps":
        with pytest.raises(TypeError, match="float64"):
            there.double()
    else:
        device.waits.clear()
        assert torch.ones(3).pin_memory().to("cuda", non_blocking=True).device == device.device and not device.waits


@pytest.mark.parametrize("how", [Sampling(top_k_logged=5), DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("options", [{}, {"kv_bits": 4}, {"attn_implementation": "eager"}, {"compiled": True}], ids=str)
def test_a_step_mixes_no_devices_and_waits_once(
    device: Labels, checkpoint: Path, how: Sampling, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of unlike lengths, read in one and in chunks, that leave and join. The compiled step is tried uncompiled."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(chunks, "CHUNK", 6)
    backend = load_backend("torch", checkpoint, **options)
    assert backend.dtype == "bfloat16"
    rows = [RowState(text(str(n), n), how, most) for n, most in ((3, 9), (8, 2), (5, 9), (4, 9))]
    batch, most = AnswerBatch(backend, rows[:3], ()), 0
    for step in range(6):
        if step == 3:
            batch.add(rows[3:])
        device.waits.clear()
        batch.step()
        most = max(most, device.waits.total())
    assert len(batch.rows) == 3 and all(len(row.answer.token_ids) == 6 for row in rows[:1])
    # CUDA: the tokens' copy. mps: the logits', and what a step needs of the host.
    assert most == 1 if device.device.type == "cuda" else most <= 5


def test_texts_read_before_are_gone_on_from(device: Labels, checkpoint: Path) -> None:
    backend = load_backend("torch", checkpoint)
    prefixes = PrefixCache(backend.config, 10**8)
    for more in (1, 9):
        batch = AnswerBatch(backend, [RowState(text("a", LEAST + more), Sampling(), 2)], (), prefixes=prefixes)
        while batch.rows:
            batch.step()
    assert prefixes.reused >= LEAST


def trained(
    folder: Path, device: Labels, targets: tuple[str, ...], rows: list[Example], dtype: str | None = None, *,
    grad_checkpoint: bool = False,
) -> Any:  # fmt: skip
    """A backend that made a step of two passes, after which its state was read and set, and another one."""
    backend: Any = load_backend("torch", folder, dtype=dtype)
    adapter = AdapterArgs(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=targets)
    backend.set_adapter(adapter, init_adapter(backend.config, adapter, 0), trainable=True)
    backend.start_training(OptimizerArgs(), grad_checkpoint=grad_checkpoint)
    batch = collate(rows, backend.config)
    device.waits.clear()
    for _ in range(2):
        backend.accumulate(batch)
    uploads = device.waits.copy()
    backend.update(1e-3, 2 * batch.answer_tokens, 1.0)
    assert device.waits - uploads == {"tolist": 1}
    # CUDA: small arrays go there without a wait; photos are too large to be worth it.
    assert device.device.type == "mps" or uploads.total() == 2 * bool(len(batch.pixel_values))
    backend.load_training(backend.adapter_tensors(), backend.optimizer_tensors(), 1)
    moments = {state["exp_avg"].device for state in backend.optimizer.state.values()}
    assert {p.device for p in backend.parameters.values()} == moments == {device.device}
    backend.accumulate(batch)
    backend.update(1e-3, batch.answer_tokens, 1.0)
    assert np.isfinite(backend.loss(batch)) and backend.peak_memory() > 0
    backend.free_memory()
    return backend


@pytest.mark.parametrize("grad_checkpoint", [False, True], ids=["", "checkpointing"])
def test_training_mixes_no_devices_and_waits_once_a_step(device: Labels, grad_checkpoint: bool) -> None:
    """LoRA on all of the model, dropout, rows with and without a photo."""
    photo = next(case.example for case in load_cases(FOLDER) if case.name == PHOTO)
    rows = [photo, text("a", 9, 4), text("b", 40, 20)]
    backend = trained(
        FOLDER / "checkpoint", device, (*LANGUAGE, *VISION, *PROJECTOR), rows, "float32", grad_checkpoint=grad_checkpoint
    )
    assert backend.device_info()["name"] == device.device.type


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights_are_unpacked_on_the_device(device: Labels, bits: int, tmp_path: Path) -> None:
    write_packed(FOLDER / "checkpoint", tmp_path / "packed", bits)
    trained(tmp_path / "packed", device, LANGUAGE, [text("a", 9, 4)])


def test_recorded_cases_come_out_the_same(device: Labels) -> None:
    """In fp32, from photo to tokens and gradients."""
    backend = load_backend("torch", FOLDER / "checkpoint", dtype="float32")
    assert backend.vision_features(np.zeros((2, 3, 336, 336), np.float32)).dtype == np.float32
    for case in load_cases(FOLDER):
        if case.name != FIVE_CROPS:
            checks = check_forward(backend, case) + check_greedy(backend, case, ways=(True,))
            checks += check_gradients(backend, case) if case.name in GRADIENTS else []
            assert checks and all(check.passed for check in checks)


def test_doctor_examines_the_device(device: Labels) -> None:
    """Every kernel, and every stage of a model in bf16; what is measured is in `speed`."""
    kernels = Kernels()
    kernels.convolution_channels, kernels.repeated_tokens = 64, 200
    assert all(check.passed for check in check_kernels("torch", kernels))
    checks = Examination().model("torch", "bfloat16")
    assert len(checks) > 10 and all(check.passed for check in checks)
    found = describe()
    assert found["device"] == device.device.type and speed.default_dtype() == "bfloat16"
    assert speed.product_seconds(8, 8, 8, "bfloat16", 1) > 0 and speed.attention_seconds(2, 16, 8, "bfloat16", 1) > 0
    if device.device.type == "cuda":
        assert speed.memory_in_use() > 0 and found["memory_size_gb"] == 80
    model = speed.random_model(NARROW, "bfloat16")
    assert {tensor.device for tensor in (*model.model.parameters(), *model.model.buffers())} == {device.device}


def test_torchs_modes_are_as_before_afterwards(checkpoint: Path) -> None:
    cuda = torch.backends.cuda
    before = cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled(), torch.backends.cudnn.allow_tf32
    with pretended("cuda"):
        load_backend("torch", checkpoint, dtype="float32")
        assert not cuda.flash_sdp_enabled()
    assert (cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.slow  # 40 seconds
def test_the_check_of_torch_on_cuda_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that `scripts/accelerator_check.py` asks for."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "cuda"))
    check = importlib.import_module("cuda_check")
    with pretended("cuda"):
        line = ["--small", "--output", str(tmp_path / "cuda.json"), "--only", "answers", "train", "packed", "peer"]
        assert check.main(line) == 0
    parts = json.loads((tmp_path / "cuda.json").read_text())["parts"]
    assert {"answers", "train, language", "train, image side too", "train, 4 bit", "peer, answers", "peer, train 1"} <= set(
        parts
    )
