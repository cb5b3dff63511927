"""Where the runs err: price bands, money, the change of the confusion, the forest of categories, calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.compare.calibration import reliability
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.score_run import NOT_PARSED
from eval.compare.value_tokens import TokenTexts, tokenizer_of, value_logprobs
from eval.runs.prediction import Prediction
from eval.runs.run import Run
from eval.runs.writer import write_baseline
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.prompts import PromptProcessor
from mlx_phi3v.task import Field, Task
from tests.helpers.page_example import example_comparison, write_tokenizer
from tests.helpers.synthetic_runs import CATEGORIES, Row, answer, changed, make_rows, write_run


def compared(folder: Path, rows: list[Row], others: list[Row]) -> Comparison:
    return compare_runs(write_run(folder / "a", rows), write_run(folder / "b", others), resamples=200)


def priced(row: Row, price: float) -> Row:
    text = row["text"].split("Full Price: ")[0] + f"Full Price: {price}"
    return answer(row, text)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return example_comparison(tmp_path_factory.mktemp("example"))


def test_errors_on_dear_products_show_in_their_band_and_in_the_money(tmp_path: Path) -> None:
    rows = [priced(row, row["true"]["full_price"]) for row in make_rows(200)]
    dear = float(np.quantile([row["true"]["full_price"] for row in rows], 0.85))
    others = changed(
        rows,
        lambda i, row: row["true"]["full_price"] > dear,
        lambda row: priced(row, round(0.5 * row["true"]["full_price"], 2)),
    )
    (prices,) = compared(tmp_path, rows, others).error_places.prices
    assert [band.difference for band in prices.bands[:4]] == [0, 0, 0, 0]
    assert sum(band.rows for band in prices.bands) == 200 and prices.bands[4].within_10_b == pytest.approx(0.25, abs=0.02)
    wrong = sum(row["true"]["full_price"] for row in rows if row["true"]["full_price"] > dear) / 2
    total = sum(row["true"]["full_price"] for row in rows)
    assert prices.money is not None and prices.money.error_a == 0 and prices.money.total == pytest.approx(total)
    # Each halved price is rounded to a cent.
    assert prices.money.error_b == pytest.approx(wrong / total, abs=200 * 0.005 / total)
    assert prices.money.bias_b == pytest.approx(-prices.money.error_b)
    low, high = prices.money.error_interval
    assert low is not None and high is not None and 0 < low < prices.money.error_b < high
    assert prices.equal == pytest.approx(0.85)


def test_bands_are_as_large_as_equal_prices_allow(tmp_path: Path) -> None:
    rows = make_rows(100)
    for i, row in enumerate(rows):
        row["true"]["full_price"] = 10.0 if i < 70 else 20.0 + i
    (prices,) = compared(tmp_path, rows, rows).error_places.prices
    first = prices.bands[0]
    assert (first.low, first.high, first.rows) == (10.0, 10.0, 70)
    assert sum(band.rows for band in prices.bands) == 100


def test_few_rows_or_none_parsed_have_no_bands_and_no_money(tmp_path: Path) -> None:
    rows = [answer(row, "nothing") for row in make_rows(6)]
    (prices,) = compared(tmp_path, rows, rows).error_places.prices
    assert not prices.bands and prices.money is None and prices.equal is None


def test_the_confusion_changes_where_rows_moved_and_names_them(tmp_path: Path) -> None:
    rows = make_rows(60, right=1.0)
    coats = [row["id"] for row in rows if row["true"]["category3_code"] == "COATS"][:4]

    def to_bags(row: Row) -> None:
        answer(row, row["text"].replace("Category: COATS", "Category: BAGS"))

    lost = changed(rows, lambda i, row: row["id"] in coats[:3], to_bags)
    lost = changed(lost, lambda i, row: row["id"] == coats[3], lambda row: answer(row, "nothing"))
    (change,) = compared(tmp_path, rows, lost).error_places.confusion
    cells = {(cell.true, cell.predicted): cell for cell in change.cells}
    assert cells["COATS", "BAGS"].gained == coats[:3] and cells["COATS", "BAGS"].change == 3
    assert cells["COATS", "COATS"].lost == coats and cells["COATS", NOT_PARSED].gained == coats[3:]
    assert len(cells) == 3 and change.cells[0] is cells["COATS", "COATS"]


def test_a_swap_that_leaves_the_counts_alike_still_names_its_rows(tmp_path: Path) -> None:
    rows = make_rows(60, right=1.0)
    first, second = [row["id"] for row in rows if row["true"]["category3_code"] == "SHOES"][:2]

    def to_coats(row: Row) -> None:
        answer(row, row["text"].replace("Category: SHOES", "Category: COATS"))

    a, b = (
        changed(rows, lambda i, row: row["id"] == first, to_coats),
        changed(rows, lambda i, row: row["id"] == second, to_coats),
    )
    (change,) = compared(tmp_path, a, b).error_places.confusion
    assert all(cell.change == 0 and cell.gained and cell.lost for cell in change.cells) and len(change.cells) == 2


def test_the_forest_is_corrected_for_the_number_of_categories(tmp_path: Path) -> None:
    rows = make_rows(400, right=1.0)

    def other(row: Row) -> None:
        true = row["true"]["category3_code"]
        answer(row, row["text"].replace(f"Category: {true}", f"Category: {CATEGORIES[CATEGORIES.index(true) - 1]}"))

    places = {name: [i for i, row in enumerate(rows) if row["true"]["category3_code"] == name] for name in CATEGORIES}
    hit = {*places["COATS"][:14], *places["SHOES"][:6]}
    forest = compared(tmp_path, rows, changed(rows, lambda i, row: i in hit, other)).error_places.categories
    found = {item.category: item for item in forest if item.metric == "accuracy"}
    assert len(forest) == 10 and all(item.level == pytest.approx(0.995) for item in forest)
    # Six lost rows of one category: exact McNemar gives 2 / 2 ** 6, five per cent by itself and not among ten.
    assert found["SHOES"].p_value == pytest.approx(2 / 2**6) and not found["SHOES"].differs
    assert found["COATS"].differs and found["COATS"].interval[1] < 0
    assert not found["BAGS"].differs and sum(item.rows for item in found.values()) == 400


def test_a_curve_of_known_probabilities_has_a_known_error() -> None:
    confidence = np.repeat([0.25, 0.55, 0.95], [40, 60, 100])
    right = np.concatenate([np.arange(40) < 20, np.arange(60) < 33, np.arange(100) < 85])
    found = reliability("x", "A", confidence, right)
    assert [(item.rows, item.right) for item in found.bins] == [(40, 0.5), (60, 0.55), (100, 0.85)]
    assert found.error == pytest.approx(0.2 * 0.25 + 0.5 * 0.10)  # weights 40 and 100 of 200
    generator = np.random.default_rng(0)
    honest = generator.random(20_000)
    # Chance: each of ten bins of 2,000 rows is off by 0.8 * sqrt(p q / 2000) < 0.009 in the mean.
    assert reliability("x", "A", honest, generator.random(20_000) < honest).error < 0.02


def test_a_values_probability_is_that_of_its_own_tokens(example: Comparison) -> None:
    run = example.data.run_a
    texts, row = tokenizer_of(run), run.rows[0]
    assert texts is not None and row.text is not None
    values = value_logprobs(row, run.task, texts)
    start = row.text.index("Category: ") + len("Category: ")
    stop = row.text.index(", Full Price")
    assert values["category3_code"] == pytest.approx(sum(row.logprobs[start:stop]))
    assert set(values) == {"title", "category3_code", "full_price"}


def test_calibration_is_of_every_field_and_run_and_needs_the_tokenizer(example: Comparison, tmp_path: Path) -> None:
    found = example.error_places.calibration
    assert [(item.field, item.side) for item in found] == [
        (name, side) for name in ("title", "category3_code", "full_price") for side in "AB"
    ]
    category = found[2]
    right = example.data.fields_a["category3_code"]
    assert category.rows == 400 and category.right == pytest.approx((right.true == right.predicted).mean())
    assert not compared(tmp_path, make_rows(20), make_rows(20)).error_places.calibration


def test_another_tokenizer_than_the_recorded_one_is_not_used(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "model")
    run = write_run(tmp_path / "run", make_rows(3), model=str(tmp_path / "model"))
    assert tokenizer_of(run) is None
    for model in ("a\0b", "../../etc", "nobody/nothing"):
        assert tokenizer_of(write_run(tmp_path / str(len(model)), make_rows(1), model=model)) is None


def test_words_and_bytes_of_a_sentencepiece_tokenizer_are_spelt() -> None:
    prompts = PromptProcessor(resolve_model("tiny"))
    task = Task((Field("title", "text"), Field("price", "number")), "", "Title: {title}, Price: {price}")
    text = "Title: wool sçarf 漢, Price: 12.5"
    ids = [*prompts.tokenize(text, [])[1:], *prompts.stop_ids[:1]]  # an answer has no token for its beginning
    assert prompts.decode(ids) == text
    texts, logprobs = TokenTexts(prompts.tokenizer), [-0.25] * len(ids)
    values = value_logprobs(Prediction("1", {}, {}, text, ids, logprobs), task, texts)
    assert values["price"] == pytest.approx(-0.25 * len("12.5"))  # each digit is a token, and the space before is none of it
    assert values["title"] <= -0.25 * len("漢".encode()) and sum(values.values()) > sum(logprobs)
    assert value_logprobs(Prediction("1", {}, {}, text + "!", ids, logprobs), task, texts) == {}


def test_all_of_it_is_in_the_json_report(example: Comparison) -> None:
    report = json.loads(json.dumps(example.to_dict(), allow_nan=False))["error_places"]
    assert set(report) == {"prices", "categories", "confusion", "calibration"} and all(report.values())


def test_photos_of_one_product_count_as_one_in_every_part(tmp_path: Path) -> None:
    rows = make_rows(80)
    photos = [{**row, "id": f"{row['id']}-{k}", "product": row["id"]} for row in rows for k in range(5)]
    others = changed(photos, lambda i, row: i % 35 < 5, lambda row: priced(row, 1.0))
    runs = write_run(tmp_path / "a", photos), write_run(tmp_path / "b", others)
    alone, together = (compare_runs(*runs, resamples=200, cluster=cluster).error_places for cluster in ("none", None))

    def width(interval: tuple[float | None, float | None]) -> float:
        assert interval[0] is not None and interval[1] is not None
        return interval[1] - interval[0]

    # Five rows that move as one are about one: intervals are about the root of five as wide.
    for narrow, wide in (
        (alone.prices[0].bands[2].interval, together.prices[0].bands[2].interval),
        (alone.prices[0].money.error_interval, together.prices[0].money.error_interval),  # type: ignore[union-attr]
        (alone.categories[1].interval, together.categories[1].interval),
    ):
        assert width(wide) > 1.5 * width(narrow)


def test_a_baseline_tells_as_much(example: Comparison, tmp_path: Path) -> None:
    write_baseline(example.data.run_a, tmp_path / "a.jsonl")
    found = compare_runs(Run.load(tmp_path / "a.jsonl"), example.data.run_b, resamples=20)
    assert len(found.error_places.calibration) == 6
    assert set(found.cause_counts) != {"not recorded"} and found.cause_counts == example.cause_counts
