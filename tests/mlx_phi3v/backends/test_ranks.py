"""Which of several processes this one is, and the sums over all of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mlx_phi3v.errors import UserError
from tests.helpers.several_ranks import launch

pytest.importorskip("mlx.core")
pytest.importorskip("torch")
from mlx_phi3v.backend_mlx.ranks import Ranks as MLXRanks
from mlx_phi3v.backend_torch.ranks import Ranks

VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launch."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_on_its_own_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Ranks().rank, Ranks().count) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as a cluster's environment leaves it
    assert (Ranks().rank, Ranks().count) == (0, 1)


def test_half_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE is set but not MASTER_ADDR, MASTER_PORT; start with torchrun"):
        Ranks()


@pytest.mark.parametrize(
    ("name", "value", "may"),
    [("RANK", "abc", "from 0 to 1"), ("RANK", "2", "from 0 to 1"), ("RANK", "-1", "from 0 to 1"), ("RANK", "", "from 0 to 1"),
     ("WORLD_SIZE", "0", "from 1"), ("WORLD_SIZE", "9" * 5000, "from 1"), ("MASTER_PORT", "65536", "from 0 to 65535"),
     ("LOCAL_RANK", "x", "from 0 to 1")],
)  # fmt: skip
def test_a_launch_that_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, may: str) -> None:
    given = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | {name: value}
    for variable, text in given.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(UserError, match=rf"^{name} is '.*'; it must be {may}.*start with torchrun, or unset WORLD_SIZE$"):
        Ranks()


def test_ranks_that_cannot_meet_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("the port is taken\nC++ stack")

    for variable, text in zip(VARIABLES, ("2", "0", "127.0.0.1", "1")):
        monkeypatch.setenv(variable, text)
    monkeypatch.setattr("torch.distributed.init_process_group", refuse)
    with pytest.raises(
        UserError, match=r"^the ranks cannot meet at 127\.0\.0\.1:1 \(the port is taken\); start them with torchrun$"
    ):
        Ranks()
    monkeypatch.setattr("mlx.core.distributed.init", refuse)
    with pytest.raises(UserError, match=r"MLX's ranks cannot meet .*; start them with mlx\.launch"):
        MLXRanks()


WORKER = """
import os, signal, sys, time
import numpy as np
from mlx_phi3v.errors import run_cli
from mlx_phi3v.ranks import TimeLimit

backend, out, end, seconds = sys.argv[1:]
if backend == "mlx":
    import mlx.core as mx
    from mlx_phi3v.backend_mlx.ranks import Ranks
else:
    import torch
    from mlx_phi3v.backend_torch.ranks import Ranks

SHAPES = {"b": (3, 5), "a": (7,), "c": (2, 1, 4)}


def gradients(rank):
    generator = np.random.default_rng(rank)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def main():
    ranks = Ranks()
    expected = {name: sum(gradients(rank)[name] for rank in range(ranks.count)) for name in SHAPES}
    whole = ranks.sum_arrays(np.eye(ranks.count, dtype=np.int32)[ranks.rank] * (2**31 - 1 - ranks.rank))
    assert whole.dtype == np.int32 and whole.tolist() == [2**31 - 1 - k for k in range(ranks.count)]
    for dtype, error in (("float32", 1e-6), ("bfloat16", 0.05)):  # bf16 keeps 8 bits of each, and of each partial sum
        if backend == "mlx":
            summed = ranks.sum_gradients({k: mx.array(v) for k, v in gradients(ranks.rank).items()}, dtype)
        else:
            summed = {k: torch.from_numpy(v) for k, v in gradients(ranks.rank).items()}
            ranks.sum_gradients(summed.values(), dtype)
        for name, value in expected.items():
            assert str(summed[name].dtype).endswith("float32")
            np.testing.assert_allclose(np.array(summed[name]), value, atol=error)
    open(f"{out}/{ranks.rank}", "w").close()
    limit = TimeLimit(float(seconds), lambda: "rank 0 waited")
    if ranks.rank == 1:
        while not all(os.path.exists(f"{out}/{rank}") for rank in range(ranks.count)):  # the others may still be reading
            time.sleep(0.01)
        os.kill(os.getpid(), getattr(signal, end))
    with limit.waiting():
        ranks.sum_arrays(np.ones(1, np.float32))


run_cli(main)
"""


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_three_ranks_add_what_they_have_and_a_killed_one_is_missed(backend: str, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    ended = launch(backend, [[str(tmp_path / "worker.py"), backend, str(tmp_path), "SIGKILL", "600"]] * 3, tmp_path)
    assert all((tmp_path / str(rank)).exists() for rank in range(3)), [one.stderr[-2000:] for one in ended]
    assert [one.returncode for one in ended] == [1, -signal.SIGKILL, 1]
    for rank in (0, 2):
        assert "error: the connection to another rank was lost: it has ended, and said why" in ended[rank].stderr
        assert "Traceback" not in ended[rank].stderr


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_rank_whose_other_one_stands_still_ends(backend: str, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    ended = launch(backend, [[str(tmp_path / "worker.py"), backend, str(tmp_path), "SIGSTOP", "2"]] * 2, tmp_path, hangs=1)
    assert (ended[0].returncode, ended[0].stderr.splitlines()[-1]) == (1, "error: rank 0 waited")


MEETS = """
import sys
from mlx_phi3v.errors import run_cli

if sys.argv[1] == "mlx":
    from mlx_phi3v.backend_mlx.ranks import Ranks
else:
    from mlx_phi3v.backend_torch.ranks import Ranks

run_cli(lambda: Ranks(timeout=float(sys.argv[2])) and 0)
"""


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_rank_whose_other_one_never_starts_ends(backend: str, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(MEETS)
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    arguments = [[str(tmp_path / "worker.py"), backend, "2"], [str(tmp_path / "hangs.py")]]
    ended = launch(backend, arguments, tmp_path, hangs=1)
    sentence = "error: the other ranks were not all there after 2 s; start all of them at about the same time"
    assert (ended[0].returncode, ended[0].stderr.splitlines()[-1]) == (1, sentence)
