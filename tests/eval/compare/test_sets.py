"""Two ways to train: several trainings a side, with products and seeds as sources of variation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.compare.__main__ import main
from eval.compare.compare_runs import compare_runs
from eval.compare.compare_sets import SetComparison, compare_sets
from eval.report.page.sets_page import write_sets_page
from eval.report.sets_phrases import settle_line
from eval.report.sets_terminal import print_sets
from eval.runs.run import Run
from mlx_phi3v.errors import UserError
from tests.helpers.synthetic_runs import Row, digest, write_run
from tests.helpers.trainings import base_rows, miss, train

ROWS = base_rows()
EQUAL_A, EQUAL_B = (0.040, 0.045, 0.038, 0.042, 0.047), (0.043, 0.041, 0.040, 0.046, 0.044)


def compared(
    tmp_path: Path, a: Sequence[float], b: Sequence[float], rows: Sequence[Row] = ROWS, **options: Any
) -> SetComparison:
    sides = train(tmp_path, "x", a, rows=rows), train(tmp_path, "y", b, rows=rows, backend="mlx")
    return compare_sets(*sides, resamples=50, **options)


# --- planted


def test_equal_ways_to_train_are_equivalent(tmp_path: Path) -> None:
    found = compared(tmp_path, EQUAL_A, EQUAL_B)
    assert found.verdict == "EQUIVALENT" and found.exit_status == 0 and found.paired
    assert found.first_line == "EQUIVALENT on category3_code and full_price (5 trainings a side)"
    assert found.claim.sentence.startswith("Claim: as good a training. 5 trainings a side, paired by seed (0, 1, 2, 3, 4)")
    category, price = found.spreads
    assert category.deviation_a == pytest.approx(np.std([1 - loss for loss in EQUAL_A], ddof=1))
    assert category.differences == pytest.approx([a - b for a, b in zip(EQUAL_A, EQUAL_B)])
    assert price.deviation_a == 0 and found.settle is None


def test_an_unlucky_seed_makes_one_pair_worse_and_the_trainings_undecided(tmp_path: Path) -> None:
    # Equal on average (9.2 % wrong), with a deviation of 2.3 points from seed to seed.
    a, b = (0.06, 0.12, 0.08, 0.10, 0.10), (0.12, 0.07, 0.11, 0.09, 0.07)
    found = compared(tmp_path, a, b)
    pair = compare_runs(Run.load(tmp_path / "x0"), Run.load(tmp_path / "y0"), resamples=20)
    assert pair.verdict == "WORSE" and "(these two adapters only)" in pair.first_line
    assert "Another seed makes another adapter" in pair.claim.sentence
    assert found.verdict == "INCONCLUSIVE" and found.exit_status == 3
    assert found.settle is not None and found.settle.trainings and found.settle.rows is None
    # The differences deviate by 4.5 points: 43 pairs have 80 % power to hold them within 2 (a t-test, no rows at work).
    assert 38 <= found.settle.trainings <= 60
    said = settle_line(found)
    assert said is not None and "more seeds a side would settle it" in said and "More rows alone would not" in said


def test_few_rows_are_settled_by_more_rows(tmp_path: Path) -> None:
    few = base_rows(150)
    # Every training of a side misses the same products: more seeds would miss them too.
    a, b = (
        [miss(row) if i < 6 else row for i, row in enumerate(few)],
        [miss(row) if i % 25 == 7 else row for i, row in enumerate(few)],
    )
    sides = train(tmp_path, "x", (0, 0, 0), rows=a), train(tmp_path, "y", (0, 0, 0), rows=b)
    found = compare_sets(*sides, resamples=20)
    assert found.verdict == "INCONCLUSIVE" and found.settle is not None
    assert found.settle.rows and found.settle.trainings is None
    said = settle_line(found)
    assert said is not None and "more rows would settle it" in said and "More seeds alone would not" in said
    assert found.spreads[0].error_seeds == 0 < found.spreads[0].error_products


def test_a_worse_way_to_train_is_worse(tmp_path: Path) -> None:
    found = compared(tmp_path, EQUAL_A, [loss + 0.06 for loss in EQUAL_B])
    assert found.verdict == "WORSE" and found.exit_status == 1
    assert "category3_code -6.0 points" in found.first_line and "(5 trainings a side)" in found.first_line
    turned = compare_sets(*(train(tmp_path / "t", n, x, rows=ROWS) for n, x in (("x", (0.1,) * 3), ("y", EQUAL_A[:3]))))
    assert turned.verdict == "BETTER"


def test_photos_of_a_product_widen_the_interval_of_trainings_too(tmp_path: Path) -> None:
    rows = [{**row, "product": f"p{i // 5}"} for i, row in enumerate(ROWS)]
    sides = [train(tmp_path, name, losses, rows=rows, size=5) for name, losses in (("x", EQUAL_A[:3]), ("y", EQUAL_B[:3]))]
    by_product, alone = compare_sets(*sides, resamples=20), compare_sets(*sides, resamples=20, cluster="none")
    assert by_product.products.count() == "1,000 rows of 200 products"
    assert by_product.spreads[0].error_products > 1.8 * alone.spreads[0].error_products  # sqrt(5) is 2.2
    assert by_product.spreads[0].error_seeds == alone.spreads[0].error_seeds


def test_garbage_titles_stand_in_the_first_line(tmp_path: Path) -> None:
    garbage = [{**row, "predicted": {**row["predicted"], "title": {"value": "same", "status": "ok"}}} for row in ROWS]
    sides = train(tmp_path, "x", EQUAL_A, rows=ROWS), train(tmp_path, "y", EQUAL_B, rows=garbage)
    found = compare_sets(*sides, resamples=20)
    assert found.verdict == "EQUIVALENT" and found.exit_status == 1
    assert "; title -" in found.first_line
    assert compare_sets(*sides, resamples=20, guards=False).exit_status == 0


def test_prices_5_percent_up_raise_the_bias(tmp_path: Path) -> None:
    def dearer(row: Row) -> Row:
        price = {"value": 1.05 * row["true"]["full_price"], "status": "ok"}
        return {**row, "predicted": {**row["predicted"], "full_price": price}}

    sides = train(tmp_path, "x", EQUAL_A, rows=ROWS), train(tmp_path, "y", EQUAL_B, rows=[dearer(row) for row in ROWS])
    found = compare_sets(*sides, resamples=20)
    assert found.verdict == "EQUIVALENT" and "full_price bias +5.0 %" in found.first_line
    one = [dearer(row) if row["true"]["category3_code"] == "BAGS" else row for row in ROWS]
    found = compare_sets(sides[0], train(tmp_path, "z", EQUAL_B, rows=one), resamples=20)
    assert found.verdict == "EQUIVALENT" and "category BAGS: full_price bias of right prices +5.0 %" in found.first_line


def test_repeated_rows_and_values_that_follow_from_no_answer_are_named(tmp_path: Path) -> None:
    sides = train(tmp_path, "x", EQUAL_A, rows=ROWS), train(tmp_path, "y", EQUAL_B, rows=ROWS)
    path = sides[1][0].path / "predictions.jsonl"
    first, second, *others = path.read_text().splitlines(keepends=True)
    changed = json.dumps({**json.loads(second), "text": "no idea"}) + "\n"
    path.write_text("".join([first, changed, *others, first]))
    remarks = compare_sets(*sides, resamples=20).remarks
    assert [remark.split(",")[0] for remark in remarks] == ["1 of y-0's 1", "1 row repeated in y-0"]
    assert "hold other values than their answers give" in remarks[0]


def test_two_sides_that_have_learnt_nothing_are_not_meaningful(tmp_path: Path) -> None:
    found = compared(tmp_path, (1.0, 1.0), (1.0, 1.0), rows=base_rows(300))
    assert found.verdict == "NOT MEANINGFUL" and found.exit_status == 4
    assert "do not beat the most frequent category" in found.first_line


def test_one_sided_a_gain_passes_and_a_loss_does_not(tmp_path: Path) -> None:
    worse = [loss + 0.06 for loss in EQUAL_A]
    sides = train(tmp_path, "x", worse, rows=ROWS), train(tmp_path, "y", EQUAL_B, rows=ROWS)
    assert compare_sets(*sides, resamples=20, one_sided=True).verdict == "NO WORSE"
    assert compare_sets(sides[1], sides[0], resamples=20, one_sided=True).verdict == "WORSE"


# --- rows


def test_rows_that_one_training_lacks_are_counted_as_absent(tmp_path: Path) -> None:
    a, b = train(tmp_path, "x", EQUAL_A, rows=ROWS), train(tmp_path, "y", EQUAL_B[:4], rows=ROWS)
    b.append(train(tmp_path / "short", "y", EQUAL_B, rows=ROWS[:900])[4])
    found = compare_sets(a, b, resamples=20)
    assert found.joined == 900 and found.absent.counted == 100 and found.absent.only_a == 100
    assert found.verdict == "INCONCLUSIVE" and settle_line(found) == "Answer the 100 absent rows first."


def test_trainings_with_the_same_answers_are_named(tmp_path: Path) -> None:
    a = train(tmp_path, "x", EQUAL_A[:2], rows=ROWS[:100])
    same = [row.to_dict() for row in a[0].rows]
    a.append(write_run(tmp_path / "copy", same, label="copy", training={"seed": 2}, hashes={"adapter": digest("copy")}))
    found = compare_sets(a, train(tmp_path, "y", EQUAL_B[:3], rows=ROWS[:100]), resamples=20)
    assert found.remarks == ["A: x-0 and copy give the same answer to every row; is one a copy of the other?"]


# --- which runs are one way to train


def test_a_side_whose_trainings_differ_in_more_than_the_seed_is_refused_by_name(tmp_path: Path) -> None:
    a, b = train(tmp_path, "x", EQUAL_A[:2], rows=ROWS[:50]), train(tmp_path, "y", EQUAL_B[:1], rows=ROWS[:50])
    b += train(tmp_path / "other", "y", EQUAL_B[:2], rows=ROWS[:50], training={"learning_rate": 2e-3})[1:]
    with pytest.raises(UserError, match=r"training\.learning_rate: 0\.001 \| 0\.002.*--allow training\.learning_rate$"):
        compare_sets(a, b, resamples=20)
    compare_sets(a, b, resamples=20, allow=("training.learning_rate",))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backend": "mlx"}, r"backend: torch \| mlx.*--allow backend$"),
        ({"hashes": {"base": "f" * 64}}, "--allow 'base weights'$"),
        ({"adapter_config": {"r": 8}}, "adapter_config"),
        ({"settings": {"num_crops": 16}}, "--allow num_crops$"),
        ({"hashes": {"catalogue": "f" * 64}}, "--allow catalogue$"),
    ],
)
def test_a_run_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    a = train(tmp_path, "x", EQUAL_A[:2], rows=ROWS[:50])
    hashes = {"adapter": digest("x", 9), **changes.pop("hashes", {})}
    other = write_run(
        tmp_path / "other", list(ROWS[:50]), hashes=hashes, training={"seed": 9, "learning_rate": 1e-3}, **changes
    )
    with pytest.raises(UserError, match=sentence):
        compare_sets([*a, other], train(tmp_path, "y", EQUAL_B[:3], rows=ROWS[:50]), resamples=20)


def test_one_adapter_counts_once_and_so_does_a_seed(tmp_path: Path) -> None:
    a, b = train(tmp_path, "x", EQUAL_A[:2], rows=ROWS[:50]), train(tmp_path, "y", EQUAL_B[:2], rows=ROWS[:50])
    with pytest.raises(UserError, match="are of the same adapter; give each training once"):
        compare_sets([*a, a[0]], b, resamples=20)
    copy = train(tmp_path / "copy", "x", EQUAL_A[:2], rows=ROWS[:50])
    with pytest.raises(UserError, match="of the same adapter"):
        compare_sets([*a, copy[0]], b, resamples=20)
    again = write_run(
        tmp_path / "again", list(ROWS[:50]), hashes={"adapter": digest("again")}, training={"seed": 1, "learning_rate": 1e-3}
    )
    with pytest.raises(UserError, match="repeated-seed: 1"):
        compare_sets([*a, again], b, resamples=20)
    with pytest.raises(UserError, match="give at least 2 trainings a side"):
        compare_sets(a[:1], b, resamples=20)


def test_sides_of_other_seeds_or_of_older_runs_are_not_paired(tmp_path: Path) -> None:
    a, b = train(tmp_path, "x", EQUAL_A, rows=ROWS), train(tmp_path, "y", EQUAL_B[:4], rows=ROWS)
    found = compare_sets(a, b, resamples=20)
    assert not found.paired and found.claim.scope == "5 and 4 trainings"
    assert "their seeds are not the same (0, 1, 2, 3, 4 and 0, 1, 2, 3)" in found.remarks[0]
    assert found.verdict == "EQUIVALENT" and found.spreads[0].deviation_difference is None
    old = [
        write_run(tmp_path / f"old{run.path.name}", [row.to_dict() for row in run.rows], hashes={"adapter": digest(run.path)})
        for run in (*a[:2], *b[:2])
    ]
    found = compare_sets(old[:2], old[2:], resamples=20)
    assert "not all of their seeds are recorded" in found.remarks[0] and "is not checked" in found.remarks[1]


def test_the_same_adapters_on_both_sides_are_said(tmp_path: Path) -> None:
    a = train(tmp_path, "x", EQUAL_A[:2], rows=ROWS[:100])
    b = train(tmp_path / "mlx", "x", EQUAL_A[:2], rows=ROWS[:100], backend="mlx")
    assert "both sides hold the same adapters" in compare_sets(a, b, resamples=20).remarks[0]


# --- the command


def paths(runs: Sequence[Run]) -> list[str]:
    return [str(run.path) for run in runs]


def test_the_command_prints_json_and_a_page_and_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROWS[:300]
    a, b = train(tmp_path, "x", EQUAL_A[:3], rows=rows), train(tmp_path, "y", EQUAL_B[:3], rows=rows, backend="mlx")
    flags = ["--a", *paths(a), "--b", *paths(b), "--resamples", "20"]
    status = main([*flags, "--json", "--html", str(tmp_path / "report.html")])
    value = json.loads(capsys.readouterr().out)
    assert list(value) == [
        "schema", "verdict", "exit_status", "claim", "first_line", "remarks", "decision", "a", "b", "paired", "joined",
        "spreads", "settle", "metrics", "guards", "guards_count", "simple", "absent", "products", "differences", "settings",
        "seed", "resamples", "one_sided",
    ]  # fmt: skip
    assert value["exit_status"] == status and value["claim"]["kind"] == "training" and value["joined"] == 300
    assert [item["seed"] for item in value["a"]["trainings"]] == [0, 1, 2] and "backend: torch | mlx" in value["differences"]
    page = (tmp_path / "report.html").read_text()
    assert "Claim: as good a training" in page and "From seed to seed" in page and "y-2" in page
    found = compare_sets(a, b, resamples=20)
    with open(tmp_path / "out.txt", "w", encoding="utf-8") as file:
        print_sets(Console(file=file, width=200, highlight=False), found)
    text = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("Claim: as good a training", "Seed", "standard error", "macro-F1", "The sides differ in"):
        assert word in text


def test_a_label_acts_neither_on_the_terminal_nor_on_the_page(tmp_path: Path) -> None:
    acting = "\x1b]0;x\x07<script>alert(1)</script>"
    sides = [train(tmp_path, name, EQUAL_A[:2], rows=ROWS[:40], backend=acting) for name in "xy"]
    found = compare_sets(*sides, resamples=20)
    write_sets_page(tmp_path / "page.html", found)
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    with open(tmp_path / "out.txt", "w", encoding="utf-8") as file:
        print_sets(Console(file=file, width=80, highlight=False), found)
    assert not set((tmp_path / "out.txt").read_text(encoding="utf-8")) & set("\x1b\x07")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--a", "A", "A"], "give the trainings of both sides"),
        (["A", "--a", "A", "A", "--b", "A", "A"], "is on neither side"),
        (["--a", "A", "A", "--b", "A", "A", "--trace"], "are for single runs"),
        (["--a", "A", "A", "--b", "A", "A", "--allow", "training.learning_rat"], "did you mean training.learning_rate?"),
        (["--a", "A", "A", "--b", "A", "A"], "give each training once"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    (run,) = train(tmp_path, "x", EQUAL_A[:1], rows=ROWS[:20])
    assert main([str(run.path) if word == "A" else word for word in flags]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
