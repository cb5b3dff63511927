"""Nothing hides behind the measures that decide: a guard is raised for what got worse, and only for that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from eval.compare.__main__ import main
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.guards import p_beyond
from eval.compare.statistics.multiplicity import holm
from tests.helpers.scripts import load_script
from tests.helpers.synthetic_runs import CATEGORIES, Row, answer, changed, make_rows, write_run

ROWS = make_rows(300)


def against(tmp_path: Path, rows: list[Row], *, reference: list[Row] = ROWS, one_sided: bool = False) -> Comparison:
    a, b = write_run(tmp_path / "a", copy.deepcopy(reference)), write_run(tmp_path / "b", rows, label="other")
    return compare_runs(a, b, resamples=50, one_sided=one_sided)


def price(row: Row) -> tuple[float, float]:
    return float(row["predicted"]["full_price"]["value"]), float(row["true"]["full_price"])


def is_right(row: Row) -> bool:
    guess, true = price(row)
    return abs(guess - true) <= 0.1 * true


def constant_title(row: Row) -> None:
    row["predicted"]["title"]["value"] = "the same for all"


def wrong_price_times_37(row: Row) -> None:
    if not is_right(row):
        row["predicted"]["full_price"]["value"] *= 37


def right_price_up_5(row: Row) -> None:
    guess, true = price(row)
    if is_right(row) and guess * 1.05 <= 1.1 * true:
        row["predicted"]["full_price"]["value"] *= 1.05


def test_equal_runs_raise_no_guard(tmp_path: Path) -> None:
    found = against(tmp_path, ROWS)
    assert found.verdict == "EQUIVALENT" and found.exit_status == 0 and not found.raised
    assert found.first_line == "EQUIVALENT on category3_code and full_price"
    assert {guard.metric for guard in found.guards if guard.category is None} == {
        "ratio", "parse_failures", "mean_ape", "log_error", "right_bias"
    }  # fmt: skip
    assert {guard.category for guard in found.guards} == {None, *CATEGORIES}


def test_every_title_garbage_is_in_the_first_line_and_keeps_the_status_from_0(tmp_path: Path) -> None:
    found = against(tmp_path, changed(ROWS, lambda i, row: True, constant_title))
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert found.first_line.startswith("EQUIVALENT on category3_code and full_price; title -")
    (guard,) = found.raised
    assert guard.metric == "ratio" and guard.difference < -0.4


def test_wrong_prices_times_37_raise_the_mean_error(tmp_path: Path) -> None:
    found = against(tmp_path, changed(ROWS, lambda i, row: True, wrong_price_times_37))
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert "mean_ape" in {guard.metric for guard in found.raised} and "mean error +" in found.first_line


def test_right_prices_up_5_percent_raise_the_bias(tmp_path: Path) -> None:
    found = against(tmp_path, changed(ROWS, lambda i, row: True, right_price_up_5))
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert "bias" in found.first_line and {guard.metric for guard in found.raised} <= {"log_error", "right_bias"}


def test_a_factor_on_exact_prices_alone_raises_the_bias_of_right_prices(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for i, row in enumerate(rows):  # a third of the prices exact, the rest scattered
        row["predicted"]["full_price"]["value"] = row["true"]["full_price"] * (1 if i % 3 == 0 else 1 + (-1) ** i * 0.5)
    up = changed(rows, lambda i, row: i % 3 == 0, lambda row: row["predicted"]["full_price"].update(value=1.05 * price(row)[1]))
    found = against(tmp_path, up, reference=rows)
    assert [guard.metric for guard in found.raised] == ["right_bias"]
    assert "bias of right prices +5.0 %" in found.first_line


def test_a_loss_in_one_category_alone_is_named(tmp_path: Path) -> None:
    rows = make_rows(1500, right=0.98)
    for i, row in enumerate(rows):  # one category has 30 rows only: half of them is one point of all
        row["true"]["category3_code"] = "RARE" if i % 50 == 0 else CATEGORIES[i % 5]
        row["predicted"]["category3_code"]["value"] = row["true"]["category3_code"]
    worse = changed(
        rows, lambda i, row: i % 100 == 0, lambda row: row["predicted"]["category3_code"].update(value=CATEGORIES[0])
    )
    found = against(tmp_path, worse, reference=rows)
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert [guard.category for guard in found.raised] == ["RARE"]
    assert "category RARE: category3_code -50.0 points" in found.first_line


def price_times(factor: float) -> Callable[[Row], None]:
    return lambda row: row["predicted"]["full_price"].update(value=factor * row["true"]["full_price"])


def exact_prices() -> list[Row]:
    rows = make_rows(600)
    for i, row in enumerate(rows):
        row["true"]["category3_code"] = "RARE" if i % 20 == 0 else CATEGORIES[i % 5]
        row["predicted"]["category3_code"]["value"] = row["true"]["category3_code"]
        price_times(1)(row)
    return rows


def test_a_bias_of_one_category_alone_is_named(tmp_path: Path) -> None:
    rows = exact_prices()  # 30 of them are RARE: 4 % of their price are 0.2 % of all
    found = against(tmp_path, changed(rows, lambda i, row: i % 20 == 0, price_times(0.96)), reference=rows)
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert [(guard.category, guard.metric) for guard in found.raised] == [("RARE", "right_bias")]
    assert "category RARE: full_price bias of right prices -4.0 %" in found.first_line


def test_a_bias_of_all_rows_does_not_list_its_categories_but_a_larger_one(tmp_path: Path) -> None:
    rows = exact_prices()

    def up(rare: float) -> list[Row]:
        all_up = changed(rows, lambda i, row: True, price_times(1.03))
        return changed(all_up, lambda i, row: i % 20 == 0, price_times(rare))

    assert {guard.category for guard in against(tmp_path / "even", up(1.03), reference=rows).raised} == {None}
    assert {guard.category for guard in against(tmp_path / "uneven", up(1.08), reference=rows).raised} == {None, "RARE"}
    assert {guard.category for guard in against(tmp_path / "down", up(0.95), reference=rows).raised} == {None, "RARE"}


def test_answers_that_no_longer_parse_are_named(tmp_path: Path) -> None:
    def unparsed(row: Row) -> None:
        row["predicted"]["title"] = {"value": None, "status": "malformed"}

    found = against(tmp_path, changed(ROWS, lambda i, row: i % 8 == 0, unparsed))
    assert "title not parsed +12.7 points" in found.first_line


def test_a_gain_raises_nothing_and_one_sided_a_bias_that_shrinks_neither(tmp_path: Path) -> None:
    biased = changed(ROWS, lambda i, row: True, right_price_up_5)
    a, b = write_run(tmp_path / "a", biased), write_run(tmp_path / "b", copy.deepcopy(ROWS))
    assert not compare_runs(a, b, resamples=50, one_sided=True).raised
    assert compare_runs(a, b, resamples=50).raised  # two-sided, a bias that moves is not the same
    assert compare_runs(b, a, resamples=50, one_sided=True).raised


def test_guards_off_leaves_the_status_and_still_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against(tmp_path, changed(ROWS, lambda i, row: True, constant_title))
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--resamples", "50"]
    assert main(words) == 1
    first = capsys.readouterr().out.splitlines()[1]
    assert "EQUIVALENT on category3_code and full_price; title -" in first
    assert main([*words, "--guards", "off"]) == 0
    assert "title -" in capsys.readouterr().out


def test_a_few_rows_all_to_one_side_are_no_proof() -> None:
    gaps = np.zeros(300)
    gaps[:4] = 5.0  # t is 2.0, p 0.02; one time in sixteen four coins fall alike
    assert p_beyond(gaps, 0.01) > 0.05
    gaps[:20] = 5.0
    assert p_beyond(gaps, 0.01) < 0.001
    assert p_beyond(np.zeros(0), 0.1) == p_beyond(np.full(10, 0.05), 0.1) == 1.0


def test_holm_is_stepwise_and_never_below_the_raw_value() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    return load_script("measure/simulate_guards.py")


def test_equally_good_runs_raise_a_guard_at_most_one_time_in_twenty(simulate: ModuleType) -> None:
    for n, apart in ((100, 0.2), (400, 1.0)):
        # 100 comparisons with a true rate of 5 % have 12 or more raised once in 200 times.
        assert simulate.raised(n, apart, replicates=100, seed=1) < 0.12
    assert simulate.raised(400, 0.1, replicates=10, seed=1, title_loss=0.2) == 1.0


def test_answered_rows_keep_their_words(tmp_path: Path) -> None:
    rows = changed(ROWS, lambda i, row: True, lambda row: answer(row, "no idea"))
    found = against(tmp_path, rows)
    assert found.verdict == "NOT MEANINGFUL" and found.exit_status == 4
