"""Photos of one product are no independent trials: verdict, guards, intervals and rows asked for count products."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.writer import CatalogueWriter
from eval.compare.__main__ import main
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.guards import p_beyond
from eval.compare.products import number, within
from eval.compare.simple_predictors import simple_column
from eval.compare.statistics import PairedMean, PairedProportion, clustered, clustered_mean, normal_quantile, tango_score
from eval.compare.verdict import gated_metrics
from eval.import_run import main as import_main
from eval.report.phrases import method, more_rows
from eval.report.terminal import print_comparison
from eval.runs.columns import read_columns
from eval.runs.run import Run
from eval.runs.writer import write_baseline
from mlx_phi3v.catalogue import PRODUCT
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Task
from tests.helpers.synthetic_runs import CATEGORIES, Row, answer, make_rows, write_run

SIZE = 3


def photos(products: int, *, size: int = SIZE) -> list[Row]:
    """`size` rows of each product, which have its values and its answer."""
    rows = []
    for k, row in enumerate(make_rows(products, right=0.95)):
        for i in range(size):
            copied = copy.deepcopy(row) | {"id": f"{row['id']}-{i}", "product": f"product {k}"}
            rows.append(copied)
    return rows


def lose(rows: list[Row], products: range) -> list[Row]:
    """Another category in every photo of these products."""
    changed = copy.deepcopy(rows)
    for row in changed:
        if int(row["product"].split()[1]) in products:
            true = str(row["true"]["category3_code"])
            other = CATEGORIES[(CATEGORIES.index(true) + 1) % len(CATEGORIES)]
            price = row["predicted"]["full_price"]["value"]
            answer(row, f"Product: {row['true']['title']}, Category: {other}, Full Price: {price}")
    return changed


def without(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "product"} for row in rows]


def against(folder: Path, a: list[Row], b: list[Row], **options: Any) -> Comparison:
    folder.mkdir(exist_ok=True)
    runs = write_run(folder / "a", a), write_run(folder / "b", b, label="other")
    return compare_runs(*runs, resamples=50, **options)


def right_of(rows: list[Row]) -> list[Row]:
    """The rows, all of them with the right category."""
    return lose(rows, range(0))


# --- planted


def test_products_that_move_together_are_no_evidence_of_a_loss_that_their_photos_seem_to_show(tmp_path: Path) -> None:
    # 9 of 100 products lost and 2 won: 27 photos against 6.
    rows = photos(100)
    a, b = lose(rows, range(90, 92)), lose(rows, range(9))
    found = against(tmp_path / "products", a, b)
    alone = against(tmp_path / "rows", a, b, cluster="none")
    assert alone.gates[0].state == "worse" and found.gates[0].state == "open"
    assert found.products.count() == "300 rows of 100 products" and alone.products.clusters is None
    gate, single = found.gates[0], alone.gates[0]
    assert gate.difference == single.difference and gate.interval[0] < single.interval[0]
    assert gate.p_value is not None and single.p_value is not None and gate.p_value > single.p_value


def test_copies_of_too_few_products_do_not_show_equivalence(tmp_path: Path) -> None:
    rows = photos(100)  # 139 independent rows without a difference show it
    assert against(tmp_path / "rows", rows, rows, cluster="none").verdict == "EQUIVALENT"
    found = against(tmp_path / "products", rows, rows)
    assert found.verdict == "INCONCLUSIVE"
    assert "300 rows of 100 products" in method(found)
    asked = more_rows(found)
    assert asked is not None and "more products)" in asked
    assert against(tmp_path / "more", photos(150), photos(150)).verdict == "EQUIVALENT"


def test_a_loss_that_the_products_show_is_found(tmp_path: Path) -> None:
    rows = photos(100)
    assert against(tmp_path, right_of(rows), lose(rows, range(15))).verdict == "WORSE"


# --- one row a product, and runs that record none


def test_one_row_a_product_gives_the_same_figures_as_no_product(tmp_path: Path) -> None:
    rows = photos(200, size=1)
    a, b = lose(rows, range(190, 195)), lose(rows, range(12))
    found = [against(tmp_path / "with", a, b).to_dict(), against(tmp_path / "none", without(a), without(b)).to_dict()]
    assert [value.pop("products")["recorded"] for value in found] == [True, False]
    for value in found:
        value.pop("a"), value.pop("b")
    assert found[0] == found[1]


def test_what_one_run_alone_records_holds_for_both(tmp_path: Path) -> None:
    rows = photos(100)
    found = against(tmp_path, without(rows), rows)
    assert found.products.products == 100 and found.products.largest == SIZE


def test_runs_that_record_other_products_are_refused_unless_told_how_to_group(tmp_path: Path) -> None:
    rows = make_rows(30)
    a, b = (
        write_run(tmp_path / name, [{**row, "product": f"p{(i + shift) // 3}"} for i, row in enumerate(rows)])
        for name, shift in (("a", 0), ("b", 1))
    )
    renamed = write_run(tmp_path / "c", [{**row, "product": f"q{i // 3}"} for i, row in enumerate(rows)])
    with pytest.raises(UserError, match="record other products for the row 'p00002': 'p0' and 'p1'; give --cluster"):
        compare_runs(a, b, resamples=10)
    assert compare_runs(a, b, resamples=10, cluster="none").products.clusters is None
    assert compare_runs(a, renamed, resamples=10).products.products == 10


def test_a_baseline_keeps_products(tmp_path: Path) -> None:
    rows = photos(40)
    run = write_run(tmp_path / "a", rows)
    write_baseline(run, tmp_path / "baseline.jsonl")
    found = compare_runs(Run.load(tmp_path / "baseline.jsonl"), write_run(tmp_path / "b", without(rows)), resamples=20)
    assert found.products.products == 40


def test_an_imported_run_has_the_products_of_its_catalogue(tmp_path: Path) -> None:
    with CatalogueWriter(tmp_path / "shop", Task(), name="shop", source={}, settings={}, products=True) as writer:
        for i in range(4):
            row = {"id": f"p{i}", "images": [], "title": "Scarf", "category3_code": "SCARVES", "full_price": 10.0}
            writer.add("test", row | {PRODUCT: f"p{i - i % 2}"})
    (tmp_path / "table.csv").write_text("id,title,category3_code,full_price\n" + "".join(f"p{i},Scarf,X,1\n" for i in range(4)))
    flags = ["--input", str(tmp_path / "table.csv"), "--data", str(tmp_path / "shop"), "--output", str(tmp_path / "run")]
    assert import_main(flags) == 0
    assert read_columns(Run.load(tmp_path / "run")).products == ["p0", "p0", "p2", "p2"]


# --- what rows of one product share


def test_a_field_of_the_task_groups_rows(tmp_path: Path) -> None:
    rows = make_rows(60)
    found = against(tmp_path, rows, rows, cluster="category3_code")
    assert found.products.products == 5 and found.products.count() == "60 rows of 5 values of category3_code"


def test_a_column_of_the_catalogue_groups_rows_while_it_is_that_catalogue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa

    rows = make_rows(30)
    extra = {"shop": pa.string()}
    with CatalogueWriter(tmp_path / "shop", Task(), name="shop", source={}, settings={}, extra=extra) as writer:
        for i, row in enumerate(rows):
            writer.add("test", {"id": row["id"], "images": [], **row["true"], "shop": f"s{i // 10}" if i else None})
    same: dict[str, Any] = {"catalogue": str(tmp_path / "shop"), "hashes": {"catalogue": writer.info["fingerprint"]}}
    a, b = write_run(tmp_path / "a", rows, **same), write_run(tmp_path / "b", rows, **same)
    found = compare_runs(a, b, resamples=20, cluster="shop")
    assert found.products.products == 4 and found.products.largest == 10  # the row without a shop is alone
    assert main([str(a.path), str(b.path), "--cluster", "colour", "--resamples", "20"]) == 2
    assert "has no such column; it has id, images" in capsys.readouterr().err
    other: dict[str, Any] = {"catalogue": str(tmp_path / "shop")}
    c, d = write_run(tmp_path / "c", rows, **other), write_run(tmp_path / "d", rows, **other)
    assert main([str(c.path), str(d.path), "--cluster", "shop", "--resamples", "20"]) == 2
    assert "holds another catalogue by now" in capsys.readouterr().err


def test_rows_without_a_value_are_alone() -> None:
    clusters, largest = number(["a", None, "a", None, "b"])
    assert clusters.tolist() == [0, 1, 0, 2, 3] and largest == 2
    assert within(clusters, np.array([1, 3])) is None and within(None, np.array([0])) is None
    kept = within(clusters, np.array([0, 2, 4]))
    assert kept is not None and kept.tolist() == [0, 0, 1]


# --- what rests on it


def test_the_score_is_the_inverse_of_the_interval_and_absent_rows_widen_it() -> None:
    generator = np.random.default_rng(0)
    clusters = np.arange(300) // 3
    a = (generator.random(100) < 0.9).astype(float)[clusters]
    b = np.where((generator.random(100) < 0.1)[clusters], 1 - a, a)
    z = normal_quantile(0.90)
    for found in (clustered(a, b, clusters), clustered_mean(b - a, clusters)):
        low, high = found.interval(z)
        assert found.score(low) == pytest.approx(z, abs=1e-4) and found.score(high) == pytest.approx(-z, abs=1e-4)
        worst, best = found.with_absent(30)
        assert worst.interval(z)[0] < low and best.interval(z)[1] > high and worst.n == 330
        assert worst.spread.clusters == pytest.approx(110)
        assert found.at(900).interval(z)[0] > low and found.at(900).spread.clusters == 300
    # A mean of differences of -1, 0, 1 is a difference of shares.
    share, mean = clustered(a, b, clusters), clustered_mean(b - a, clusters)
    assert mean.interval(z) == pytest.approx(share.interval(z), abs=0.002)
    assert mean.beyond(0.02) == pytest.approx(share.beyond(0.02), rel=0.1)


def test_rows_of_their_own_have_the_plain_score_up_to_students_quantile() -> None:
    found = clustered(
        np.array([1.0] * 12 + [0.0] * 5 + [1.0] * 983), np.array([0.0] * 12 + [1.0] * 5 + [1.0] * 983), np.arange(1000)
    )
    assert found.score(-0.02) == pytest.approx(tango_score(12, 5, 1000, -0.02), rel=0.01)
    plain = PairedProportion(12, 5, 1000)
    assert found.beyond(0.005) == pytest.approx(plain.beyond(0.005), rel=0.05)
    assert found.with_absent(50)[0].interval(1.645) == pytest.approx(plain.with_absent(50)[0].interval(1.645), abs=1e-3)
    rows = PairedMean.of(np.array([-0.5] * 12 + [0.2] * 88))
    mean = clustered_mean(np.array([-0.5] * 12 + [0.2] * 88), np.arange(100))
    assert mean.interval(1.645) == pytest.approx(rows.interval(1.645), abs=0.002)


def test_a_guards_t_test_counts_products() -> None:
    generator = np.random.default_rng(1)
    gaps = 0.1 + generator.normal(0, 0.4, 60)
    clusters = np.arange(180) // 3
    alone = p_beyond(gaps, 0.02)
    assert p_beyond(np.repeat(gaps, 3), 0.02, clusters) == pytest.approx(alone, rel=1e-6)
    assert p_beyond(np.repeat(gaps, 3), 0.02) < alone / 3


def test_the_median_of_a_category_leaves_out_the_whole_product(tmp_path: Path) -> None:
    rows = photos(3)
    for row, price in zip(rows, [1.0] * 3 + [10.0] * 3 + [100.0] * 3):
        row["true"].update(full_price=price, category3_code="BAGS")
    data = against(tmp_path, rows, rows).data
    simple = simple_column(data.fields_a["full_price"], data.category, data.products.clusters)
    assert simple.predicted.tolist() == [55.0] * 3 + [50.5] * 3 + [5.5] * 3
    assert gated_metrics(Task(), None)  # the category and the price are what it is held against


def test_the_terminal_says_how_rows_are_counted(tmp_path: Path) -> None:
    from rich.console import Console

    found = against(tmp_path, photos(20), photos(20))
    with open(tmp_path / "out.txt", "w", encoding="utf-8") as file:
        print_comparison(Console(file=file, width=80, highlight=False), found)
    text = " ".join((tmp_path / "out.txt").read_text(encoding="utf-8").replace("│", " ").split())
    assert "60 rows of 20 products (at most 3 each)" in text
    value = json.loads(json.dumps(found.to_dict(), allow_nan=False))["products"]
    assert value == {"column": PRODUCT, "recorded": True, "rows": 60, "products": 20, "largest": 3}
    assert math.isclose(found.gates[0].rows, 60)
