"""RoPE tables follow the published Phi3SuScaledRotaryEmbedding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_phi3v.config import ModelArgs
from mlx_phi3v.rope import attention_scale, inverse_frequencies, uses_long_factor

FACTORS: dict[str, Any] = {
    "short_factor": tuple(1 + 0.1 * i for i in range(8)),
    "long_factor": tuple(2.0 * (i + 1) for i in range(8)),
}
CONFIG = ModelArgs(hidden_size=64, num_attention_heads=4, **FACTORS)


def test_frequencies_are_the_formula_row_by_row() -> None:
    short, long = inverse_frequencies(CONFIG)
    for i in range(8):
        plain = 10000.0 ** (2 * i / 16)
        assert short[i] == pytest.approx(1 / (FACTORS["short_factor"][i] * plain), rel=1e-6)
        assert long[i] == pytest.approx(1 / (FACTORS["long_factor"][i] * plain), rel=1e-6)
    assert inverse_frequencies(CONFIG).dtype == np.float32


def test_frequencies_have_the_bits_of_the_published_torch_code() -> None:
    torch = pytest.importorskip("torch")
    for row, name in enumerate(("short_factor", "long_factor")):
        factors = torch.tensor(FACTORS[name], dtype=torch.float32)
        shape = torch.arange(0, 16, 2, dtype=torch.int64).float() / 16
        np.testing.assert_allclose(inverse_frequencies(CONFIG)[row], (1.0 / (factors * 10000.0**shape)).numpy(), rtol=2e-7)


def test_without_scaling_rope_is_plain() -> None:
    plain = replace(CONFIG, short_factor=None, long_factor=None)
    np.testing.assert_array_equal(*inverse_frequencies(plain))
    assert attention_scale(plain) == 1.0


def test_the_scale_is_that_of_the_published_config() -> None:
    assert attention_scale(CONFIG) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert attention_scale(replace(CONFIG, max_position_embeddings=4096)) == 1.0
    assert attention_scale(replace(CONFIG, max_position_embeddings=2048)) == 1.0


def test_the_long_factors_begin_after_the_original_length() -> None:
    assert [bool(uses_long_factor(CONFIG, n)) for n in (1, 4095, 4096, 4097)] == [False, False, False, True]
    assert uses_long_factor(CONFIG, np.array([4096, 4097])).tolist() == [False, True]
