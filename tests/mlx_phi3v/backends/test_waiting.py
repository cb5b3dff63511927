"""A decoding step on CUDA waits for the device once, for the tokens' copy: no other operation asks for a tensor's numbers.

There is no CUDA here: what is looked at are the operations, on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mlx_phi3v.answer_batch import AnswerBatch, RowState
from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Example
from mlx_phi3v.sampling import Sampling

# Whose result, or its shape, is known on the host only once the device has computed it.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2", "bincount"}


class Operations(TorchDispatchMode):
    """Notes the names of all operations, and an index by a mask as `nonzero`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.names.append("nonzero" if by_mask else name)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_what_waits() -> None:
    x = torch.arange(3)
    with Operations() as seen:
        bool(x[1] > 0), x.nonzero(), x[x > 1], x[torch.tensor([0])]
    assert [name for name in seen.names if name in WAITS] == ["_local_scalar_dense", "nonzero", "nonzero"]


@pytest.mark.parametrize("how", [Sampling(top_k_logged=5), Sampling(1.0, 0.9, top_k_logged=5)])
def test_no_operation_of_a_step_waits(checkpoint: Path, how: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of unlike lengths, one of which leaves and one of which joins."""
    backend = load_backend("torch", checkpoint, dtype="float32")
    monkeypatch.setattr(backend, "scores_on_device", True)
    rows = [
        RowState(Example(str(n), np.full(n, 7, np.int64), np.full(n, -100, np.int64), ()), how, most)
        for n, most in ((3, 9), (8, 2), (5, 9), (4, 9))
    ]
    batch = AnswerBatch(backend, rows[:3], ())
    with Operations() as seen:
        for step in range(6):
            if step == 3:
                batch.add(rows[3:])
            batch.step()
    assert len(batch.rows) == 3 and len(seen.names) > 100
    assert not WAITS & set(seen.names)
