"""Rows of the split that are not compared are said in the first lines and count against "as good"."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from eval.compare.__main__ import main
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.runs.manifest import split_hash
from mlx_phi3v.task import Task
from tests.helpers.synthetic_runs import make_rows, write_run

ROWS = make_rows(300)


def both(tmp_path: Path, n: int = 300, *, allow: tuple[str, ...] = (), **changes: Any) -> Comparison:
    a, b = (write_run(tmp_path / name, copy.deepcopy(ROWS[:n]), **changes) for name in "ab")
    return compare_runs(a, b, allow=allow, resamples=50)


def test_rows_missing_in_both_runs_are_named_and_count_against(tmp_path: Path) -> None:
    found = both(tmp_path, 240, split_rows=300)
    assert found.verdict == "INCONCLUSIVE" and found.absent.both == found.absent.counted == 60
    assert any("60 of the split's 300 rows are missing in both runs" in remark for remark in found.remarks)
    assert all("60 rows that are absent" in reason for reason in found.reasons)


def test_a_few_missing_rows_cost_as_much_as_they_could(tmp_path: Path) -> None:
    found = both(tmp_path, 299, split_rows=300)
    assert found.verdict == "EQUIVALENT" and "1 of the split's 300 rows" in found.remarks[1]


def test_a_limit_on_both_is_named_and_counts_unless_allowed(tmp_path: Path) -> None:
    found = both(tmp_path, limit=300, split_rows=500)
    assert found.verdict == "INCONCLUSIVE" and found.absent.limited == 200 and found.absent.both == 0
    assert any("--limit 300: the first 300 of the split's 500 rows" in remark for remark in found.remarks)
    allowed = compare_runs(found.data.run_a, found.data.run_b, allow=("limit",), resamples=50)
    assert allowed.verdict == "EQUIVALENT" and any("--limit 300" in remark for remark in allowed.remarks)


def test_a_limit_beyond_the_split_says_nothing(tmp_path: Path) -> None:
    assert not any("limit" in remark for remark in both(tmp_path, limit=500, split_rows=300).remarks)


def test_shards_that_are_not_merged_are_named_and_count(tmp_path: Path) -> None:
    found = both(tmp_path, shard=[1, 2], split_rows=600)
    assert found.verdict == "INCONCLUSIVE" and found.absent.other_shards == 300
    assert any("shard 1/2 only, not merged" in remark for remark in found.remarks)


def test_lines_taken_out_of_finished_runs_are_noticed(tmp_path: Path) -> None:
    both(tmp_path, split_rows=None)
    for name in "ab":
        path = tmp_path / name / "predictions.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:200]))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--resamples", "50"]) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_runs_of_earlier_versions_are_checked_by_the_hash_of_their_split(tmp_path: Path, whole: bool) -> None:
    split = split_hash(Task(), ({"id": row["id"], **row["true"]} for row in ROWS))
    found = both(tmp_path, 300 if whole else 290, split_rows=None, hashes={"split": split})
    said = [remark for remark in found.remarks if "is not recorded" in remark]
    assert bool(said) != whole and found.absent.split_rows == (300 if whole else None)


# --- a run against itself


def test_a_run_against_itself_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", ROWS)
    assert main([str(tmp_path / "a"), str(tmp_path / "a"), "--resamples", "50", "--json"]) == 0
    assert "the same run" in json.loads(capsys.readouterr().out)["remarks"][0]


def test_a_copy_of_a_run_is_said_and_another_backends_equal_answers_with_other_numbers_are_not(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", list(reversed(ROWS)), label="copy", backend="mlx")
    assert "the same answers to the last digit" in compare_runs(a, b, resamples=50).remarks[0]
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["logprobs"][0] -= 1e-6
    other = write_run(tmp_path / "c", rows, backend="mlx")
    assert not compare_runs(a, other, resamples=50).remarks


def test_one_adapter_with_the_same_settings_on_the_same_backend_is_said(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["logprobs"][0] -= 1e-6
    a, again = write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", rows, batch_size=1)
    assert "the same adapter" in compare_runs(a, again, resamples=50).remarks[0]
    other: list[tuple[str, Any]] = [("c", {"hashes": {"adapter": "f" * 64}}), ("d", {"settings": {"dtype": "bfloat16"}})]
    for name, changes in other:
        assert not compare_runs(a, write_run(tmp_path / name, rows, **changes), resamples=50).remarks
