"""Intervals, tests and verdicts, checked against published examples, plain definitions and simulations."""

from __future__ import annotations

import math
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from eval.compare import statistics
from eval.compare.metrics import METRICS
from eval.compare.power import power_same, rows_needed, rows_to_decide
from eval.compare.statistics import (
    Mean,
    Median,
    PairedMean,
    PairedProportion,
    PairedResamples,
    bootstrap,
    mcnemar,
    resampling,
    tango,
    wilson,
)
from eval.compare.verdict import Gate, decide, judge
from tests.helpers.paths import ROOT
from tests.helpers.scripts import load_script

Z95 = statistics.normal_quantile(0.95)
ACCURACY = METRICS["category"][0]


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    return load_script("measure/simulate_statistics.py")


def test_score_interval_matches_a_published_example() -> None:
    # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33:2850, airway hyper-responsiveness: 7 against 1 of 21.
    assert tango(7, 1, 21, Z95) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_score_interval_without_discordance_is_wilsons() -> None:
    for n in (1, 10, 1000):
        low, high = tango(0, 0, n, Z95)
        # Wilson's bound for 0 successes of n.
        assert high == pytest.approx(Z95**2 / (n + Z95**2), abs=2e-3 if n < 5 else 1e-4)
        assert low == pytest.approx(-high, abs=1e-9)


@settings(max_examples=150)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
def test_score_interval_is_finite_ordered_symmetric_and_agrees_with_mcnemar(only_a: int, only_b: int, rest: int) -> None:
    n = only_a + only_b + rest
    low, high = tango(only_a, only_b, n, Z95)
    assert -1 <= low <= high <= 1
    if n:
        assert low - 1e-9 <= (only_b - only_a) / n <= high + 1e-9
        assert low < high
    assert tango(only_b, only_a, n, Z95) == pytest.approx((-high, -low), abs=1e-9)
    if only_a + only_b:
        z = abs(only_a - only_b) / math.sqrt(only_a + only_b)
        if abs(z - Z95) > 1e-3:
            assert (low > 0 or high < 0) == (z > Z95)


def test_exact_mcnemar_counts_coin_flips() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(1, 6) == pytest.approx(2 * (1 + 7) * 0.5**7)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0 and wilson(50, 50)[1] == pytest.approx(1.0)


def test_bootstrap_matches_resampling_by_hand() -> None:
    generator = np.random.default_rng(3)
    values, mask = generator.normal(size=40), generator.random(40) < 0.7
    found = bootstrap([Mean(values, mask), Median(values, mask)], 40, seed=5, resamples=64)
    row = 0
    for weights in statistics.resample_weights(40, 5, 64):
        for line in weights:
            drawn = np.repeat(np.arange(40), line.astype(int))
            chosen = values[drawn][mask[drawn]]
            assert found[row, 0] == pytest.approx(chosen.mean())
            assert found[row, 1] == pytest.approx(np.median(chosen))
            row += 1
    assert row == 64


def test_bootstrap_is_the_same_for_the_same_seed_and_paired() -> None:
    values = np.random.default_rng(0).normal(size=300)
    everything = np.ones(300, dtype=bool)
    pair = [Mean(values, everything), Mean(values + 0.5, everything)]
    first, second = (bootstrap(list(pair), 300, seed=1, resamples=200) for _ in range(2))
    assert np.array_equal(first, second)
    # B is A and a half on every row: paired resampling shows no spread in the difference.
    assert np.ptp(first[:, 1] - first[:, 0]) < 1e-12 < np.ptp(first[:, 0])


def test_chunked_resampling_draws_every_resample_and_n_products_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_CHUNK_WEIGHTS", 1000)
    chunks = list(statistics.resample_weights(300, 0, 50))
    assert len(chunks) > 10 and sum(len(chunk) for chunk in chunks) == 50
    assert all((chunk.sum(axis=1) == 300).all() for chunk in chunks)


def test_zero_difference_gives_no_nan_and_a_width() -> None:
    share = PairedProportion(0, 0, 30)
    bounded = PairedResamples(0.0, np.zeros(100), 30, True, True)
    for item in (share, bounded):
        low, high = item.interval(Z95)
        assert low < 0 < high and math.isfinite(low) and math.isfinite(high)
    unbounded = PairedResamples(0.0, np.zeros(100), 30, True, False)
    assert unbounded.interval(Z95) == (0.0, 0.0)


def test_empty_data_is_inconclusive_not_a_crash() -> None:
    gate = judge("category", ACCURACY, 0.02, PairedProportion(0, 0, 0), gates=1)
    assert gate.state == "open" and decide([gate]).verdict == "INCONCLUSIVE"


def state(a_alone: int, b_alone: int, n: int, **options: Any) -> Gate:
    return judge("category", ACCURACY, 0.02, PairedProportion(a_alone, b_alone, n), gates=2, **options)


def test_a_small_but_sure_difference_inside_the_margin_is_the_same() -> None:
    gate = state(150, 60, 20_000)
    assert gate.p_value is not None and gate.p_value < 1e-6
    assert gate.state == "same"


def test_few_rows_settle_nothing_and_say_how_many_would() -> None:
    gates = [state(3, 2, 80), state(1, 1, 80)]
    decision = decide(gates)
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.more_rows is not None and decision.more_rows > 80


def test_a_difference_beyond_the_margin_is_worse_or_better_and_a_gain_passes_a_baseline() -> None:
    assert decide([state(60, 10, 1000), state(0, 0, 1000)]).verdict == "WORSE"
    assert decide([state(60, 10, 1000, one_sided=True)], one_sided=True).verdict == "WORSE"
    assert decide([state(10, 60, 1000, one_sided=True)], one_sided=True).verdict == "NO WORSE"
    assert decide([state(10, 60, 1000)]).verdict == "BETTER"


def test_absent_rows_count_against_equivalence() -> None:
    assert state(0, 0, 1000).state == "same"
    assert state(0, 0, 1000, absent=5).state == "same"
    assert state(0, 0, 1000, absent=40).state == "open"


def test_rows_asked_for_are_fewer_the_wider_the_margin() -> None:
    needed = [rows_needed(PairedProportion(10, 10, 200), margin)[0] for margin in (0.01, 0.02, 0.05)]
    assert None not in needed and needed == sorted(filter(None, needed), reverse=True)
    assert rows_needed(PairedProportion(20, 0, 200), 0.02)[0] is None  # ten points are never within two
    assert rows_needed(PairedProportion(5, 5, 200), 0.02)[1] is None  # no difference is never found different


@pytest.mark.parametrize(
    ("only_a", "only_b", "rows", "better"), [(2, 2, 358, 0), (3, 2, 200, 0), (1, 3, 150, 1), (4, 1, 250, -1)]
)
def test_the_power_of_independent_rows_is_that_of_all_their_counts(only_a: int, only_b: int, rows: int, better: int) -> None:
    """Every pair of counts up to 40 by its chance, and the interval itself; chances beyond are below 1e-9."""
    counts = [(a, b) for a in range(40) for b in range(40)]
    shares = [only_a / rows, only_b / rows, 1 - (only_a + only_b) / rows]
    chances = multinomial.pmf([(a, b, rows - a - b) for a, b in counts], rows, shares)
    power = 0.0
    for (a, b), chance in zip(counts, chances.tolist()):
        low, high = PairedProportion(a, b, rows).interval(statistics.normal_quantile(0.9))
        power += chance * ((better < 0 or low > -0.02) and (better > 0 or high < 0.02))
    found = power_same(PairedProportion(only_a, only_b, rows), 0.02, rows, better=better)
    assert 0 < found < 1 and found == pytest.approx(power, abs=1e-9)


def test_the_rows_asked_for_are_not_too_many_where_few_are_discordant(simulate: ModuleType) -> None:
    """A normal approximation asked for 391, at which 85 % were found; 1,500 replicates know 80 % to one point."""
    asked, _ = rows_to_decide([PairedProportion(1, 1, 200)], [0.02], [0])
    assert asked is not None and asked < 391
    found, generator = 0, np.random.default_rng(0)
    for _ in range(1500):
        low, high = simulate.Pair(0.005, 0.005).draw(generator, asked).interval(statistics.normal_quantile(0.9))
        found += low > -0.02 and high < 0.02
    assert abs(found / 1500 - 0.80) < 0.03 + 2.6 * 0.0103


def test_equal_systems_are_called_worse_or_better_at_most_one_time_in_twenty(simulate: ModuleType) -> None:
    for category, price in (((0.03, 0.03), (0.1, 0.1)), ((0.01, 0.01), (0.2, 0.2))):
        found = simulate.verdicts(simulate.Pair(*category), simulate.Pair(*price), 400, replicates=800, seed=2)
        # 800 replicates know a 5 % rate to 0.8 points (one standard error); a true 5 % passes all but once in 200 runs.
        assert found["WORSE"] + found["BETTER"] <= 0.05 + 2.6 * 0.0077


def test_systems_at_the_margin_are_seldom_called_equivalent_and_same_ones_often(simulate: ModuleType) -> None:
    at_margin = simulate.verdicts(simulate.Pair(0.04, 0.02), simulate.Pair(0.01, 0.01), 1500, replicates=800, seed=3)
    assert at_margin["EQUIVALENT"] <= 0.05 + 2.6 * 0.0077
    n, power = simulate.power_at_stated_rows(simulate.Pair(0.03, 0.03), what="same", replicates=800, seed=4)
    assert n > 500 and abs(power - 0.8) < 0.05
    n, power = simulate.power_at_stated_rows(simulate.Pair(0.08, 0.03), what="beyond", replicates=800, seed=5)
    assert n < 1000 and power > 0.76


def test_the_rows_asked_for_decide_all_measures_together(simulate: ModuleType) -> None:
    for pairs in (((0.02, 0.02), (0.02, 0.02)), ((0.08, 0.03), (0.07, 0.03))):
        _, _, power = simulate.power_of_all([simulate.Pair(*pair) for pair in pairs], replicates=500, seed=9)
        assert abs(power - 0.8) < 0.03 + 2.6 * 0.018  # 500 replicates know a share of 80 % to 1.8 points


def test_both_measures_at_the_margin_are_seldom_called_worse(simulate: ModuleType) -> None:
    pair = simulate.Pair(0.025, 0.005)  # where the score test without correction found 9 % at 200 rows
    found = simulate.verdicts(pair, pair, 200, replicates=1000, seed=10)
    assert found["WORSE"] + found["BETTER"] <= 0.05 + 2.6 * 0.0069


def test_the_title_ratio_holds_its_level_from_150_rows_up(simulate: ModuleType) -> None:
    for n in (150, 500):
        found = simulate.title_verdicts(n, kind="unparsed", replicates=500, seed=11)
        assert found["same"] <= 0.05 + 2.6 * 0.0097 and found["worse"] <= 0.05 + 2.6 * 0.0097


def test_the_score_of_bounded_differences_is_tangos_where_they_are_whole() -> None:
    for a, b, n in ((7, 1, 21), (3, 5, 200), (0, 0, 50), (0, 4, 100)):
        whole = PairedMean.of(np.concatenate([-np.ones(a), np.ones(b), np.zeros(n - a - b)]))
        assert whole.interval(Z95) == pytest.approx(tango(a, b, n, Z95), abs=1e-6)
        assert whole.beyond(0.02) == pytest.approx(PairedProportion(a, b, n).beyond(0.02), abs=1e-6)


def test_intervals_cover_at_their_nominal_rate(simulate: ModuleType) -> None:
    for pair, level in (((0.03, 0.03), 0.95), ((0.06, 0.03), 0.9)):
        held = simulate.score_coverage(simulate.Pair(*pair), 600, level=level, replicates=3000, seed=6)
        assert abs(held - level) < 0.02
    held = simulate.bootstrap_coverage(300, level=0.95, replicates=500, resamples=400, seed=7, population=100_000)
    # 500 replicates know the rate to one point, so the allowance of two points is widened by that much.
    assert all(abs(share - 0.95) < 0.035 for share in held.values()), held


def test_the_median_is_right_also_where_the_middle_ranks_do_not_hold_it() -> None:
    generator = np.random.default_rng(8)
    values, everything = generator.normal(size=3000), np.ones(3000, dtype=bool)
    drawn = next(statistics.resample_weights(3000, 0, 5))
    lopsided = np.where(values > 1.5, 50.0, 1.0)[None]
    for weights in (drawn, lopsided):
        expected = [np.median(np.repeat(values, line.astype(int))) for line in weights]
        assert Median(values, everything).resampled(weights) == pytest.approx(expected)


def test_statistics_and_verdict_load_numpy_and_scipy_alone() -> None:
    # So that they serve where nothing else of the project is installed, and start fast.
    code = """
import sys
import numpy, scipy.stats
packages = lambda: {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
before = packages()
import eval.compare.statistics, eval.compare.verdict
print(*sorted(packages() - before))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["eval", "mlx_phi3v"]
