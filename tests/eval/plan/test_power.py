"""The planned power is what simulated comparisons reach."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.compare.statistics import clustered, normal_quantile, seeded, tango_score
from eval.plan.power import (
    Measure,
    Rows,
    Seeds,
    joint,
    loss_found,
    power_pair,
    power_trainings,
    rows_for,
    trainings_for,
)
from tests.helpers.scripts import load_script

MARGIN = 0.02
Z = normal_quantile(0.9)


def measure(discordance: float, difference: float = 0.0) -> Measure:
    return Measure("a measure", discordance, MARGIN, difference)


@pytest.mark.parametrize(
    ("discordance", "difference", "n"),
    [(0.002, 0.0, 150), (0.005, 0.0, 304), (0.01, 0.003, 304), (0.03, 0.0, 304), (0.05, 0.0, 1500), (0.1, -0.005, 2500)],
)
def test_a_pair_is_found_equivalent_as_often_as_planned(discordance: float, difference: float, n: int) -> None:
    rates = [(discordance - difference) / 2, (discordance + difference) / 2, 1 - discordance]
    drawn = np.random.default_rng(0).multinomial(n, rates, size=3000)
    inside = [tango_score(a, b, n, -MARGIN) > Z and tango_score(a, b, n, MARGIN) < -Z for a, b, _ in drawn]
    # Four standard errors of 3,000 draws, and a tenth of one point for the border, which is interpolated.
    planned = power_pair(measure(discordance, difference), Rows(n))
    assert abs(np.mean(inside) - planned) < 4 * math.sqrt(max(planned * (1 - planned), 1e-4) / 3000) + 0.001


@pytest.mark.parametrize(
    ("n", "size", "seeds", "deviation", "shared"),
    [(1000, 1, 5, 0.01, 0.0), (2000, 1, 5, 0.005, 0.5), (2000, 1, 8, 0.015, 0.5), (1500, 3, 1, 0.0, 0.0)],
)
def test_trainings_and_products_are_found_equivalent_as_often_as_planned(
    n: int, size: int, seeds: int, deviation: float, shared: float
) -> None:
    cell = load_script("measure/simulate_seeds.py").Cell(n, size, 0.05, seeds, deviation, shared)
    generator, replicates = np.random.default_rng(0), 1000
    found = 0
    for _ in range(replicates):
        a, b = cell.draw(generator, 0.0)
        by = clustered(a[0], b[0], cell.clusters) if seeds == 1 else seeded(a, b, cell.clusters, paired=True)
        low, high = by.interval(Z)
        found += low > -MARGIN and high < MARGIN
    rows = Rows(n, size, 0.5)  # half of the script's products move as one
    kind = Seeds(seeds, deviation, shared)
    planned = power_pair(measure(0.05), rows) if seeds == 1 else power_trainings(measure(0.05), rows, kind)
    # Three standard errors, and four points: the plan holds the variance over products at its expected value.
    assert abs(found / replicates - planned) < 3 * math.sqrt(0.25 / replicates) + 0.04


@pytest.mark.parametrize(("n", "seeds"), [(300, 5), (300, 12), (500, 3)])
def test_few_discordant_rows_are_planned_with_the_caution_of_the_tests(n: int, seeds: int) -> None:
    """Without it 92 % were planned of 300 rows and 5 trainings, of which 84 % are found."""
    cell = load_script("measure/simulate_seeds.py").Cell(n, 1, 0.01, seeds, 0.0, 0.5)
    generator, replicates, found = np.random.default_rng(0), 400, 0
    for _ in range(replicates):
        a, b = cell.draw(generator, 0.0)
        low, high = seeded(a, b, cell.clusters, paired=True).interval(Z)
        found += low > -MARGIN and high < MARGIN
    share, planned = found / replicates, power_trainings(measure(0.01), Rows(n), Seeds(seeds, 0.0, 0.5))
    # Two points beside three standard errors: the plan takes the expected number of discordant rows for the one found.
    assert abs(share - planned) < 0.02 + 3 * math.sqrt(planned * (1 - planned) / replicates)


def test_rows_asked_for_have_the_power_and_a_tenth_fewer_do_not() -> None:
    for rate in (0.002, 0.05, 0.2):
        needed = rows_for(lambda n, rate=rate: power_pair(measure(rate), Rows(n)))  # type: ignore[misc]
        assert needed is not None
        assert power_pair(measure(rate), Rows(needed)) >= 0.8 > power_pair(measure(rate), Rows(int(0.9 * needed)))


def test_what_no_number_reaches_is_none() -> None:
    seeds = Seeds(3, 0.02)
    assert rows_for(lambda n: power_trainings(measure(0.05), Rows(n), seeds)) is None  # three seeds hide more than the margin
    assert trainings_for(lambda k: power_trainings(measure(0.05), Rows(50), seeds.of(k))) is None
    assert power_pair(measure(0.05, 0.02), Rows(1_000_000)) == 0.0  # at the margin itself
    needed = trainings_for(lambda k: power_trainings(measure(0.05), Rows(5000), seeds.of(k)))
    assert needed is not None and power_trainings(measure(0.05), Rows(5000), seeds.of(needed - 1)) < 0.8


def test_more_of_each_helps_and_more_noise_does_not() -> None:
    base = power_trainings(measure(0.05), Rows(1500), Seeds(5, 0.01))
    assert base < power_trainings(measure(0.05), Rows(3000), Seeds(5, 0.01))
    assert base < power_trainings(measure(0.05), Rows(1500), Seeds(8, 0.01))
    assert base > power_trainings(measure(0.05), Rows(1500), Seeds(5, 0.015))
    assert base > power_trainings(measure(0.05), Rows(1500, 3), Seeds(5, 0.01))
    assert joint([0.9, 0.9]) == pytest.approx(0.81)


def test_trainings_cannot_differ_more_than_their_rows() -> None:
    seeds = Seeds(8, 0.01)  # by 1.1 points on average, so 1.1 % of the rows at least are discordant
    powers = [power_trainings(measure(rate), Rows(2000), seeds) for rate in (0.0, 0.005, 0.0112, 0.03)]
    assert powers[0] == powers[1] == pytest.approx(powers[2], abs=0.01) and min(powers) > 0.5


def test_the_loss_that_is_found_is_beyond_the_margin_and_shrinks_with_rows() -> None:
    few, many = (loss_found(measure(0.05), Rows(n), 2) for n in (300, 3000))
    assert few is not None and many is not None and MARGIN < many < few
    assert loss_found(measure(0.05), Rows(300, 3), 2) > few  # type: ignore[operator]
    assert loss_found(measure(0.05), Rows(5), 2) is None
