"""One simple thing that turns a run's answers into the other's is named, and nothing is named of runs that differ by chance."""

# ruff: noqa: E501 (a planted fault is one line)

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from tests.helpers.synthetic_runs import CATEGORIES, TASK, Row, answer, make_rows, write_run

ROWS = make_rows(120)


def against(tmp_path: Path, rows: list[Row], *, reference: list[Row] = ROWS, **changes: Any) -> Comparison:
    a = write_run(tmp_path / "a", copy.deepcopy(reference))
    return compare_runs(a, write_run(tmp_path / "b", rows, label="other", **changes), resamples=20)


def said(row: Row, name: str) -> Any:
    return row["predicted"][name]["value"]


def saying(row: Row, **values: Any) -> Row:
    """The row with an answer in which these values are others."""
    return answer(row, TASK.answer({name: said(row, name) for name in row["predicted"]} | values))


def prices(change: Callable[[float], float], every: int = 1) -> list[Row]:
    rows = copy.deepcopy(ROWS)
    return [saying(row, full_price=change(said(row, "full_price"))) if i % every == 0 else row for i, row in enumerate(rows)]


def texts(change: Callable[[str], str]) -> list[Row]:
    return [answer(row, change(row["text"])) for row in copy.deepcopy(ROWS)]


def categories(change: Callable[[str], str]) -> list[Row]:
    return [saying(row, category3_code=change(said(row, "category3_code"))) for row in copy.deepcopy(ROWS)]


NEXT = dict(zip(CATEGORIES, CATEGORIES[1:] + CATEGORIES[:1]))
PLANTED: dict[str, tuple[list[Row], str]] = {
    "another currency": (prices(lambda x: round(0.92 * x, 2)), "times 0.92 in 120 of 120 rows where they differ (120 in all)"),
    "another currency in half": (prices(lambda x: round(150 * x), 2), "times 150 in 60 of 60 rows where they differ"),
    "cents": (prices(lambda x: round(100 * x)), "times 100 in 120 of 120 rows where they differ (120 in all): one counts in cents"),
    "a mark": (prices(lambda x: round(x / 1000, 3), 3), "times 0.001 in 40 of 40 rows where they differ (120 in all): one reads a mark"),
    "rounding": (prices(lambda x: float(round(x))), "B's full_price is A's rounded to whole units"),
    "endings": (prices(lambda x: int(x) + 0.99), "B's full_price is A's cut to whole units and 0.99"),
    "words before": (texts(lambda text: f"Sure! Here it is: {text}"), "B's answers begin with 'Sure! Here it is: '"),
    "words behind": (texts(lambda text: f"{text} Thank you."), "B's answers end with ' Thank you.'"),
    "one category": (categories(lambda x: "BAGS" if x == "COATS" else x), "'BAGS' for A's 'COATS' in"),
    "all categories": (categories(NEXT.__getitem__), "B's category3_code has other names"),
    "a full stop": (categories(lambda x: f"{x}."), "B's category3_code has other names"),
    "one answer": ([answer(row, ROWS[0]["text"]) for row in copy.deepcopy(ROWS)], "B gives one and the same answer to 120 of 120 rows"),
    "no answer": ([answer(row, row["text"] if i % 3 else "") for i, row in enumerate(copy.deepcopy(ROWS))], "40 of 120 answers of B are empty"),
    "fields": (
        [saying(row, title=said(row, "category3_code"), category3_code=said(row, "title")) for row in copy.deepcopy(ROWS)],
        "B's title is A's category3_code in 120 of 120 rows: its fields have changed places",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_what_was_done_to_the_answers_is_said(what: str, tmp_path: Path) -> None:
    rows, sentence = PLANTED[what]
    remarks = against(tmp_path, rows).remarks
    assert sum(sentence in remark for remark in remarks) == 1, remarks


@pytest.mark.parametrize("order", ["random", "backwards", "far"])
def test_answers_of_other_rows_in_no_order_near_by_are_found(order: str, tmp_path: Path) -> None:
    n = len(ROWS)
    places = {
        "random": np.random.default_rng(0).permutation(n),
        "backwards": np.arange(n)[::-1],
        "far": np.roll(np.arange(n), 50),
    }
    rows = [answer(row, ROWS[j]["text"]) for row, j in zip(copy.deepcopy(ROWS), places[order].tolist())]
    assert any("B has the answers of A at other rows" in remark for remark in against(tmp_path, rows).remarks)


def test_photos_of_other_rows_are_found_where_answers_are_another_models(tmp_path: Path) -> None:
    rows = make_rows(120, seed=0)
    for row, j in zip(rows, np.random.default_rng(0).permutation(120).tolist()):
        row["fingerprints"] = ROWS[j]["fingerprints"]
        saying(row, title=f"another {j}")
    assert any("B was shown the photos that A was shown at other rows" in remark for remark in against(tmp_path, rows).remarks)


def test_a_run_without_the_adapter_is_named(tmp_path: Path) -> None:
    found = against(tmp_path, copy.deepcopy(ROWS), hashes={"adapter": None})
    assert "B is the model without an adapter, A with one" in found.remarks
    assert not any("without an adapter" in remark for remark in against(tmp_path / "2", copy.deepcopy(ROWS)).remarks)


def honest(seed: int, *, right: float, steps: list[float] | None) -> list[Row]:
    """Answers of a model of its own: right at random, prices near the true one or of the same few."""
    random, rows = np.random.default_rng(seed), copy.deepcopy(ROWS)
    for row in rows:
        true = row["true"]
        category = true["category3_code"] if random.random() < right else str(random.choice(CATEGORIES))
        price = round(true["full_price"] * float(np.exp(random.normal(0, 0.08))), 2)
        price = price if steps is None else min(steps, key=lambda step: abs(step - price))
        title = true["title"] if random.random() < right else f"knitted {row['id'][-1]}"
        saying(row, title=title, category3_code=category, full_price=price)
    return rows


@pytest.mark.parametrize("right", [(0.9, 0.9), (0.9, 0.4), (0.3, 0.3)])
@pytest.mark.parametrize("steps", [None, [90.0, 120.0, 150.0, 190.0, 250.0, 290.0, 390.0, 590.0]])
def test_of_runs_that_differ_by_chance_nothing_is_said(
    right: tuple[float, float], steps: list[float] | None, tmp_path: Path
) -> None:
    a, b = (honest(seed, right=share, steps=steps) for seed, share in enumerate(right))
    found = against(tmp_path, b, reference=a, hashes={"adapter": "another"})
    assert not [remark for remark in found.remarks if remark.startswith(("A", "B")) or "other rows" in remark]


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], dict[str, Any], str]] = {
    "half": (lambda image: image.resize((32, 24)), {}, "B's are 0.5 times as wide and high as A's"),
    "encoded": (lambda image: image, {"format": "JPEG", "quality": 20}, "B's are of the same size, encoded again"),
    "turned": (lambda image: image.transpose(Image.Transpose.ROTATE_90), {}, "B's are turned by 90 degrees"),
    "cut": (lambda image: image.crop((0, 0, 48, 48)), {}, "B's are cut or padded to another shape"),
    "others": (lambda image: Image.fromarray(255 - np.asarray(image)), {}, "they show other things"),
    "metadata": (lambda image: image, {"compress_level": 1}, "they hold the same pixels"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_how_photo_files_differ_is_said_where_they_lie_here(what: str, tmp_path: Path) -> None:
    change, kept, sentence = CHANGES[what]
    runs = []
    for side in "ab":
        rows = copy.deepcopy(ROWS[:20])
        for row in rows[:3]:
            row["image"] = str(tmp_path / side / f"{row['id']}.photo")
            row["fingerprints"] = row["fingerprints"] | {"file": f"{side}{row['id']}"}
        runs.append(write_run(tmp_path / side, rows))
        random = np.random.default_rng(0)
        for row in rows[:3]:
            image = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1))
            with open(row["image"], "wb") as file:
                (change(image) if side == "b" else image).save(file, **({"format": "PNG"} | (kept if side == "b" else {})))
    remarks = compare_runs(*runs, resamples=20).remarks
    assert f"the photo files differ in 3 of 20 rows: {sentence} (3 of the 3 photos looked at)" in remarks


def test_answers_that_begin_with_the_same_thousands_of_characters_are_compared(tmp_path: Path) -> None:
    comparison = against(tmp_path, texts(lambda text: "x" * 10_000 + text))  # to look at each of them took the square
    assert any("B's answers begin with 'xxx" in remark for remark in comparison.remarks)
