"""Which of several processes this one is: read from what torchrun sets."""

from __future__ import annotations

import pytest

from mlx_phi3v.errors import UserError

pytest.importorskip("torch")
from mlx_phi3v.backend_torch.backend import join_ranks

VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launch."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_on_its_own_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_ranks() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as a cluster's environment leaves it
    assert join_ranks() == (0, 1)


def test_half_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE is set but not MASTER_ADDR, MASTER_PORT; start with torchrun"):
        join_ranks()
