"""The likeliest tokens and their log-probabilities are those of a full sort and of fp64, on the host and on a device."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.decoding import log_softmax
from mlx_phi3v.next_tokens import HostScores, Scores, group_width, likeliest
from mlx_phi3v.sampling import Draws

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


def draws(*rows: tuple[float, float, float, float]) -> Draws:
    """temperature, top_p and the two numbers of each row."""
    return Draws(np.array(rows, np.float32))


@pytest.mark.parametrize("kind", KINDS)
@given(
    vocabulary=st.sampled_from([1, 2, 7, 64, 200, 640, 1024, 32064]), temperature=st.sampled_from([0.05, 0.5, 1.0, 2.0, 50.0]),
    top_p=st.sampled_from([1e-30, 0.1, 0.5, 0.9, 0.999, 1.0]), numbers=st.tuples(*[st.integers(0, 2**23 - 1)] * 2),
    coarse=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_drawn_token_is_where_the_numbers_point(
    kind: str, vocabulary: int, temperature: float, top_p: float, numbers: tuple[int, int], coarse: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((2, vocabulary))).astype(np.float32)
    if coarse:  # many equal ones
        logits = np.round(logits)
    first, second = ((number + 0.5) / 2**23 for number in numbers)
    scores = scores_of(kind, logits)
    ids = np.asarray(scores.draw(draws((temperature, top_p, first, second), (0.0, 1.0, 0.5, 0.5))))
    assert ids[1] == logits[1].argmax()  # greedy, beside a row that draws
    token = int(ids[0])
    exact = np.exp((logits[0].astype(np.float64) - logits[0].max()) / np.float32(temperature))
    # An exponential in fp32 is off by its exponent's rounding; a sum by groups by less than 2^-24 for each of 256 terms.
    off = 2.0**-23 * max(8.0, float((logits[0].max() - logits[0].min()) / temperature)) + 256 * 2.0**-24
    if top_p < 1:
        values, counts = np.unique(exact, return_counts=True)
        likelier = 1 - np.cumsum(values * counts) / exact.sum()  # the share of all that weigh more than this
        likelier[-1] = 0
        assert likelier[np.searchsorted(values, exact[token])] < np.float32(top_p) + off
        if np.abs(likelier[:-1] - np.float32(top_p)).min(initial=1) < off:
            return  # rounding may let a token more or less count
        exact = np.where(exact >= values[likelier < np.float32(top_p)].min(), exact, 0)
    width = group_width(vocabulary)
    groups = exact.reshape(-1, width)
    for weights, place, number in ((groups.sum(-1), token // width, first), (groups[token // width], token % width, second)):
        ends = np.cumsum(weights) / weights.sum()
        assert (ends[place - 1] if place else 0) - off <= number <= ends[place] + off
        assert weights[place] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_of_tokens_that_all_weigh_the_same_any_is_drawn_whatever_top_p(kind: str) -> None:
    scores = scores_of(kind, np.zeros((2, 640), np.float32))
    assert np.asarray(scores.draw(draws((1.0, 1e-30, 0.75, 0.5), (1e30, 0.5, 0.75, 0.5)))).tolist() == [
        560,
        560,
    ]  # four groups of 160


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_drawn_by_their_probability(kind: str, rng: np.random.Generator) -> None:
    """1,280 tokens, ten groups of 128; a chi-squared test over the likeliest and all the others."""
    logits = np.zeros((1, 1280), np.float32)
    logits[0, [3, 200, 201, 1279]] = [6.0, 5.0, 6.5, 4.0]
    times = 4000
    numbers = rng.random((times, 2))
    columns = np.column_stack([np.full(times, 1.0), np.full(times, 1.0), numbers]).astype(np.float32)
    ids = np.asarray(scores_of(kind, np.repeat(logits, times, 0)).draw(Draws(np.clip(columns, 1e-7, 1))))
    exact = np.exp(log_softmax(logits)[0])
    cells = [[3], [200], [201], [1279], [*range(3), *range(4, 200)], [*range(202, 1279)]]
    expected = np.array([exact[cell].sum() for cell in cells]) * times
    found = np.array([np.isin(ids, cell).sum() for cell in cells])
    assert found.sum() == times
    # 5 degrees of freedom: below 30 but for once in 50,000
    assert ((found - expected) ** 2 / expected).sum() < 30


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_two_batches_are_joined(kind: str, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((5, 70), np.float32)
    both = scores_of(kind, logits[:2]).join(scores_of(kind, logits[2:]))
    np.testing.assert_array_equal(both.numpy(), logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_drawing_from_what_is_not_finite_gives_some_token(kind: str, top_p: float) -> None:
    logits = np.array([[np.nan] * 70, [-np.inf] * 70, [np.inf] * 70, [0.0] * 70], np.float32)
    ids = np.asarray(scores_of(kind, logits).draw(draws(*[(1.0, top_p, 0.5, 0.5)] * 4)))
    assert ((ids >= 0) & (ids < 70)).all()


def test_groups_divide_the_vocabulary() -> None:
    assert group_width(32064) == 192 and group_width(32011) == 119
    assert group_width(101) == 101  # itself
    assert group_width(2 * 1009) == 2018  # no divisor between 64 and 256: one group
    ids, values = likeliest(np.arange(24, dtype=np.float32).reshape(2, 3, 4), 2)
    assert ids.tolist() == [[[3, 2]] * 3] * 2 and values[0, 0].tolist() == [3.0, 2.0]
