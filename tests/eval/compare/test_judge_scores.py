"""The small API for other harnesses: scores in, verdict out, with nothing but numpy and scipy."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest

from eval.compare.judge_scores import judge_scores
from eval.compare.metrics import get_metric
from eval.compare.statistics import PairedProportion
from eval.compare.verdict import judge
from tests.helpers.paths import ROOT


def test_the_example_of_the_page_is_true() -> None:
    found = doctest.testfile(str(ROOT / "docs" / "comparison.md"), module_relative=False)
    assert found.attempted >= 5 and not found.failed


def test_it_loads_numpy_and_scipy_alone() -> None:
    code = """
import sys
import numpy, scipy.stats
packages = lambda: {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
before = packages()
from eval.compare.judge_scores import judge_scores
assert judge_scores({"score": ([1, 0.5], [1, 0.5])}).verdict == "INCONCLUSIVE"
print(*sorted(packages() - before))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["eval", "mlx_phi3v"]


def test_zeros_and_ones_are_a_share_and_anything_else_is_a_mean() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random(500) < 0.7, generator.random(500) < 0.7
    gate = judge_scores({"x": (a, b)}).gates[0]
    share = PairedProportion(int((a & ~b).sum()), int((b & ~a).sum()), 500)
    assert gate == judge("x", get_metric("score", "score"), 0.02, share, gates=1)
    values = generator.random(500)
    assert judge_scores({"x": (values, values - 0.3 * (values > 0.5))}).verdict == "WORSE"


def test_every_measure_decides_and_each_has_its_margin() -> None:
    same = np.ones(1000)
    lost = np.concatenate([np.zeros(60), np.ones(940)])
    assert judge_scores({"x": (same, same), "y": (same, lost)}).verdict == "WORSE"
    found = judge_scores({"x": (same, same), "y": (same, lost)}, margin={"x": 0.02, "y": 0.2})
    assert found.verdict == "EQUIVALENT" and [gate.margin for gate in found.gates] == [0.02, 0.2]


def test_only_a_loss_counts_one_sided_and_absent_rows_count_at_their_worst() -> None:
    a = np.arange(1000) % 2 == 0
    assert judge_scores({"x": (a, np.ones(1000))}, one_sided=True).verdict == "NO WORSE"
    assert judge_scores({"x": (a, a)}).verdict == "EQUIVALENT"
    assert judge_scores({"x": (a, a)}, absent=100).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ([1, 0], [1], "A has 2 scores of x and B 1"),
        ([[1, 0]], [[1, 0]], "give one score for each row"),
        ([], [], "give one score for each row"),
        ([1, 2], [1, 0], "not from 0 to 1"),
        ([1, float("nan")], [1, 0], "not from 0 to 1"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(a: list[float], b: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        judge_scores({"x": (a, b)})


def test_a_margin_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="margin of x is 2; it must be above 0 and below 1"):
        judge_scores({"x": ([1], [1])}, margin=2)


def test_rows_that_move_together_count_as_one() -> None:
    generator = np.random.default_rng(2)
    documents = np.arange(600) // 6
    a = generator.random(600) < 0.8
    b = np.where((generator.random(100) < 0.06)[documents], ~a, a)
    alone, together = judge_scores({"s": (a, b)}), judge_scores({"s": (a, b)}, clusters=[f"d{i}" for i in documents])
    assert together.gates[0].interval[0] < alone.gates[0].interval[0]
    assert judge_scores({"s": (a, b)}, clusters=list(range(600))) == alone
    assert judge_scores({"s": (a * 0.5, b * 0.5)}, clusters=documents.tolist()).gates[0].interval[0] < 0
    with pytest.raises(ValueError, match="there are 5 clusters and 600 scores of s"):
        judge_scores({"s": (a, b)}, clusters=range(5))
