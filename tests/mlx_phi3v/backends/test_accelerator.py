"""What differs by the device. There was no Mac to run it on: stand-ins take the place of its memory and random numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")
import torch

from mlx_phi3v.backend_mlx.memory import set_limits
from mlx_phi3v.backend_torch import accelerator
from mlx_phi3v.backend_torch.accelerator import choose_device, free_memory, mps_random_numbers, peak_memory
from mlx_phi3v.backend_torch.backend import TorchBackend
from mlx_phi3v.backend_torch.ranks import Ranks
from mlx_phi3v.errors import UserError

CPU, MPS, CUDA = (torch.device(name) for name in ("cpu", "mps", "cuda:0"))
GB = 10**9


def there(patch: pytest.MonkeyPatch, *devices: str) -> None:
    patch.delenv(accelerator.VARIABLE, raising=False)
    patch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    patch.setattr(torch.backends.mps, "is_available", lambda: "mps" in devices)


@pytest.mark.parametrize(
    ("devices", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")]
)
def test_the_fastest_device_is_chosen(devices: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, *devices)
    assert choose_device() == torch.device(chosen)
    monkeypatch.setenv(accelerator.VARIABLE, "cpu")
    assert choose_device() == CPU


@pytest.mark.parametrize("asked", ["cuda", "gpu"])
def test_a_device_that_is_not_there_is_named(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "mps")
    monkeypatch.setenv(accelerator.VARIABLE, asked)
    with pytest.raises(UserError, match=f"MLX_PHI3V_TORCH_DEVICE is '{asked}', and torch has mps, cpu here"):
        choose_device()


def test_several_ranks_of_a_mac_compute_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "mps")
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks().device == MPS
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Ranks().device == CPU


def test_scores_and_optimiser_are_plain_on_mps() -> None:
    ranks: Any = SimpleNamespace(device=MPS)
    model: Any = None
    backend = TorchBackend(model, model, model, "float32", "sdpa", ranks)
    assert (backend.scores_on_device, backend.fused_optimizer) == (False, False)
    ranks.device = CUDA
    backend = TorchBackend(model, model, model, "float32", "sdpa", ranks)
    assert (backend.scores_on_device, backend.fused_optimizer) == (True, True)


def test_the_peak_of_mps_is_the_most_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([5, 9, 4])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: next(used))
    peak, seen = 0, []
    for _ in range(3):
        peak = peak_memory(MPS, peak)
        seen.append(peak)
    assert seen == [5, 9, 9]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert peak_memory(CUDA, 100) == 7 and peak_memory(CPU, 0) > 1_000_000


def test_each_device_frees_its_own_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "empty_cache", lambda name=name: freed.append(name))
    for device in (CPU, MPS, CUDA):
        free_memory(device)
    assert freed == ["mps", "cuda"]


def test_dropout_of_a_layer_that_is_computed_again_draws_the_same_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    forward, recompute = mps_random_numbers()
    with forward:
        first = torch.rand(4)
    then = torch.rand(4)
    with recompute:
        again = torch.rand(4)
    after = torch.rand(4)
    torch.manual_seed(0)  # as the test began
    drawn = [torch.rand(4) for _ in range(3)]
    assert all(map(torch.equal, (first, then, after), drawn)) and torch.equal(first, again)


class Metal:
    """What stands in for `mlx.core` on a Mac with 64 GB, of which 5 are in use."""

    cpu, gpu = "cpu", "gpu"

    def __init__(self, *, metal: bool = True, device: str = "gpu") -> None:
        self.metal = SimpleNamespace(is_available=lambda: metal)
        self.default_device = lambda: device
        self.device_info = lambda: {"max_recommended_working_set_size": 48 * GB}
        self.get_active_memory = lambda: 5 * GB
        self.calls: list[tuple[str, int]] = []
        self.set_wired_limit = lambda limit: self.calls.append(("wired", limit))
        self.set_cache_limit = lambda limit: self.calls.append(("cache", limit))


@pytest.mark.parametrize(
    ("planned", "wired", "cache"),
    [(None, 48, 43), (20 * GB, 20, 15), (100 * GB, 48, 43), (4 * GB, 4, 0)],
    ids=["nobody planned", "as planned", "more than there is", "less than is in use"],
)
def test_metals_limits_follow_from_the_plan(planned: int | None, wired: int, cache: int) -> None:
    metal = Metal()
    assert set_limits(planned, metal) == (wired * GB, cache * GB)
    assert metal.calls == [("wired", wired * GB), ("cache", cache * GB)]


@pytest.mark.parametrize("metal", [Metal(metal=False), Metal(device="cpu")], ids=["no Metal", "on its CPU"])
def test_no_limit_is_set_elsewhere(metal: Metal) -> None:
    assert set_limits(None, metal) is None and not metal.calls
