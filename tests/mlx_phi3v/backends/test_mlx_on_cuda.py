"""What MLX's CUDA backend takes otherwise than its others, as its source says; there is none here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")

from mlx_phi3v.backend import load_backend
from mlx_phi3v.backend_mlx.model import Phi3VModel
from mlx_phi3v.batches import Example, collate


@pytest.mark.numeric
def test_keys_that_begin_behind_their_arrays_first_column_are_attended_with_a_mask(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one MLX's CUDA attention of one token (`unslice_kv`) reads an array full of rows from its first column on."""
    backend: Any = load_backend("mlx", checkpoint, dtype="float32")
    masks: list[Any] = []
    call = Phi3VModel.__call__

    def noting(self: Any, hidden: Any, positions: Any, lengths: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        masks.append(mask)
        return call(self, hidden, positions, lengths, mask, *rest, **named)

    monkeypatch.setattr(Phi3VModel, "__call__", noting)
    token, found = np.array([5]), []
    for on_device in (False, True):
        monkeypatch.setattr(backend, "scores_on_device", on_device)
        rows = [Example(str(n), np.full(n, 7, np.int64), np.full(n, -100, np.int64), ()) for n in (8, 3)]
        _, cache = backend.prefill(collate(rows, backend.config))
        backend.keep_rows(cache, [1])
        assert cache.valid.all() and cache.layers[0].start == 5
        found.append(backend.decode(cache, token).numpy())
        assert (masks[-1] is not None) == on_device
        _, cache = backend.prefill(collate(rows[1:], backend.config))
        backend.decode(cache, token)
        assert masks[-1] is None  # from the first column on nothing is in the way
    # Two kernels for the same sums of few terms.
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[0]).max())
