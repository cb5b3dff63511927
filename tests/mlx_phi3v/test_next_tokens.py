"""The likeliest tokens and their log-probabilities are those of a full sort and of fp64, on the host and on a device."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.decoding import log_softmax
from mlx_phi3v.next_tokens import HostScores, Scores, group_width, likeliest

pytestmark = pytest.mark.numeric
KINDS = ("host", "mlx", "torch")


def scores_of(kind: str, logits: np.ndarray) -> Scores:
    """The logits [B, V] as that kind of scores."""
    if kind == "host":
        return HostScores(logits)
    array = pytest.importorskip("mlx.core").array if kind == "mlx" else pytest.importorskip("torch").from_numpy
    found: Scores = importlib.import_module(f"mlx_phi3v.backend_{kind}.next_tokens").scores(array(logits), on_device=True)
    return found


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.integers(1, 4), vocabulary=st.sampled_from([1, 2, 7, 64, 200, 257, 640, 1024, 32064]), k=st.integers(0, 6),
    coarse=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_likeliest_are_those_of_a_full_sort(kind: str, rows: int, vocabulary: int, k: int, coarse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (4 * rng.standard_normal((rows, vocabulary))).astype(np.float32)
    if coarse:  # many equal ones, as in bf16; zeros of both signs too
        logits = np.round(logits) * np.float32(-1.0)
    exact = log_softmax(logits)
    order = np.argsort(-logits, axis=-1, kind="stable")
    scores = scores_of(kind, logits)
    read = scores.read(scores.greedy(), k)
    assert read is not None
    np.testing.assert_array_equal(read.ids, order[:, 0])
    np.testing.assert_array_equal(read.likeliest, order[:, :k])
    # fp32 exponentials and sums: 1e-7 on the host, about 1e-6 where the sum is in fp32 too.
    np.testing.assert_allclose(read.logprobs, np.take_along_axis(exact, order[:, :1], -1)[:, 0], atol=2e-6)
    np.testing.assert_allclose(read.likeliest_logprobs, np.take_along_axis(exact, order[:, :k], -1), atol=4e-6)
    assert read.pairs(0) == list(zip(read.likeliest[0].tolist(), read.likeliest_logprobs[0].tolist()))
    given_tokens = rng.integers(0, vocabulary, rows)
    of_given = scores.read(given_tokens, 0)
    assert of_given is not None and of_given.likeliest.shape == (rows, 0)
    np.testing.assert_allclose(of_given.logprobs, np.take_along_axis(exact, given_tokens[:, None], -1)[:, 0], atol=4e-6)
    np.testing.assert_array_equal(scores.rows([rows - 1]).numpy(), logits[-1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_seen(kind: str, wrong: float) -> None:
    logits = np.zeros((2, 640), np.float32)
    logits[1, 3] = wrong
    scores = scores_of(kind, logits)
    assert scores.read(scores.greedy(), 2) is None


def test_groups_divide_the_vocabulary() -> None:
    assert group_width(32064) == 192 and group_width(32011) == 119
    assert group_width(101) == 101  # itself
    assert group_width(2 * 1009) == 2018  # no divisor between 64 and 256: one group
    ids, values = likeliest(np.arange(24, dtype=np.float32).reshape(2, 3, 4), 2)
    assert ids.tolist() == [[[3, 2]] * 3] * 2 and values[0, 0].tolist() == [3.0, 2.0]
