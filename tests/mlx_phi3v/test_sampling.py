"""A row's random numbers are a function of seed, row and place, and spread evenly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_phi3v.sampling import RowNumbers, Sampling, log_softmax


def test_the_numbers_stay_those_of_earlier_versions() -> None:
    """Else an interrupted run that draws would go on with others."""
    recorded = [round(2**24 * number) for place in (0, 1, 95) for number in RowNumbers(7, "p1").at(place)]
    assert recorded == RECORDED


RECORDED = [3174561, 5533479, 3256871, 379737, 4197973, 15306581]


@given(seed=st.integers(0, 2**63 - 1), row=st.text(st.characters(codec=None), max_size=8), place=st.integers(0, 10**6))
def test_a_number_is_between_0_and_1_and_the_same_in_fp32(seed: int, row: str, place: int) -> None:
    numbers = RowNumbers(seed, row).at(place)
    assert all(0 < number < 1 and float(np.float32(number)) == number for number in numbers)
    assert numbers == RowNumbers(seed, row).at(place)
    others = [RowNumbers(seed, row).at(place + 1), RowNumbers(seed + 1, row).at(place), RowNumbers(seed, row + "x").at(place)]
    assert numbers not in others  # by chance once in 2^46


def test_numbers_are_spread_evenly_and_independent() -> None:
    numbers = np.array([RowNumbers(0, str(row)).at(place) for row in range(200) for place in range(50)])
    counts, _, _ = np.histogram2d(numbers[:, 0], numbers[:, 1], bins=10, range=[[0, 1], [0, 1]])
    # 100 cells of 100 on average: chi-squared with 99 degrees of freedom is below 158 but for once in 10,000.
    assert ((counts - 100) ** 2 / 100).sum() < 158
    following = numbers.reshape(200, 50, 2)[:, :, 0]
    assert abs(np.corrcoef(following[:, :-1].ravel(), following[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(200 * 49)


def test_a_temperature_that_leaves_one_token_is_greedy() -> None:
    assert Sampling().greedy and Sampling(1e-7).greedy and not Sampling(1e-5).greedy


def test_log_probabilities_sum_to_one() -> None:
    logits = np.array([[800.0, 0.0, -800.0], [1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=-1), 1, rtol=1e-12)
