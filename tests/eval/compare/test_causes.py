"""Causes that are true: noise before the divergence, first choices, pixels and weights at once, slipped ids, spelling."""

from __future__ import annotations

import copy
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.decoded_pixels import changes
from eval.compare.divergence import GAP, MISJOINED, NEAR_TIE, NOT_FIRST, PIXELS, SPELLING, first_difference
from eval.compare.spelling import alike
from eval.report.phrases import cause_notes, outcome
from mlx_phi3v.files import sha256_bytes, sha256_json
from tests.helpers.synthetic_runs import CATEGORIES, Row, answer, changed, digest, make_rows, write_run

ROWS = make_rows(120)
BF16: dict[str, Any] = {"settings": {"dtype": "bfloat16"}}


def doubtful(rows: list[Row], noise: float, seed: int) -> list[Row]:
    """The rows with every fourth token uncertain (p = 0.5) and its logit off by `noise` nats (standard deviation)."""
    generator = np.random.default_rng(seed)
    rows = copy.deepcopy(rows)
    for row in rows:
        for k in range(0, len(row["logprobs"]), 4):
            row["logprobs"][k] = float(np.log(0.5) + 0.5 * generator.normal(0, noise))
    return rows


def other_answers(rows: list[Row], margin: float, *, first: bool = True) -> tuple[list[Row], list[Row]]:
    """Every fifth row answered with another category by B; both hold the other's token `margin` below their own."""
    others = copy.deepcopy(rows)
    for i in range(0, len(rows), 5):
        a, b = rows[i], others[i]
        category = str(b["predicted"]["category3_code"]["value"])
        other = CATEGORIES[(CATEGORIES.index(category) + 1) % len(CATEGORIES)]
        logprobs = list(b["logprobs"])
        answer(b, b["text"].replace(f"Category: {category}", f"Category: {other}"))
        k = first_difference(a["token_ids"], b["token_ids"])
        b["logprobs"][:k] = logprobs[:k]
        for row, rival, sign in ((a, b, 1), (b, a, 1 if first else -1)):
            row["logprobs"][k] = -0.7
            row["top_k"][k] = [[row["token_ids"][k], -0.7], [rival["token_ids"][k], -0.7 - sign * margin]]
    return rows, others


def renoised(rows: list[Row], noise: float) -> list[Row]:
    """The logits moved again, except where the answers were made to diverge."""
    generator = np.random.default_rng(7)
    for row in rows:
        for k, logprob in enumerate(row["logprobs"]):
            if logprob < -0.3 and not row["top_k"][k]:
                row["logprobs"][k] = float(np.log(0.5) + 0.5 * generator.normal(0, noise))
    return rows


def compared(tmp_path: Path, a: list[Row], b: list[Row], **of_b: Any) -> Comparison:
    runs = write_run(tmp_path / "a", a, **BF16), write_run(tmp_path / "b", b, label="other", **{**BF16, **of_b})
    return compare_runs(*runs, resamples=20, breakdown=False)


@pytest.mark.parametrize(("noise", "cause"), [(0.04, NEAR_TIE), (0.5, GAP)])
def test_the_noise_before_the_divergence_tells_rounding_from_another_adapter(tmp_path: Path, noise: float, cause: str) -> None:
    a, b = other_answers(doubtful(ROWS, 0.0, 1), 0.12)  # far below 0.25 nats in both cases
    found = compared(tmp_path, a, renoised(b, noise))
    assert found.cause_counts == {cause: 24}
    assert found.logit_noise.median == pytest.approx(0.67 * noise, rel=0.25) and found.near_tie == 0.25
    assert ("No divergence is called a near-tie" in cause_notes(found)[0]) == (cause == GAP)


def test_a_margin_far_beyond_the_noise_is_a_gap_though_the_dtype_would_allow_it(tmp_path: Path) -> None:
    a, b = other_answers(doubtful(ROWS, 0.0, 1), 0.2)
    found = compared(tmp_path, a, renoised(b, 0.01))
    assert found.logit_noise.rounding and found.cause_counts == {GAP: 24}


def test_a_run_that_did_not_take_its_own_first_choice_is_named(tmp_path: Path) -> None:
    a, b = other_answers(copy.deepcopy(ROWS), 0.3, first=False)
    found = compared(tmp_path, a, b)
    assert found.cause_counts == {NOT_FIRST: 24}
    assert all(row.detail.startswith("B did not take its own first choice") for row in found.diverged)


def other_pixels(row: Row) -> None:
    row["fingerprints"] |= {"pixels": digest("other", row["id"]), "pixel_values": digest("other", row["id"])}


def test_other_pixels_do_not_mask_another_adapter(tmp_path: Path) -> None:
    a, b = other_answers(copy.deepcopy(ROWS), 1.0)
    b = changed(b, lambda i, row: True, other_pixels)
    found = compared(tmp_path, a, b, hashes={"adapter": "f" * 64})
    assert found.cause_counts == {GAP: 24} and found.all_cause_counts == {PIXELS: 24, GAP: 24}
    assert "pixels explain at most 24 rows" in cause_notes(found)[-1]
    same = compared(tmp_path / "same", a, b)
    assert same.cause_counts == {PIXELS: 24} and same.all_cause_counts == {PIXELS: 24, GAP: 24}


def test_rows_with_equal_pixels_acquit_or_accuse_the_model(tmp_path: Path) -> None:
    for name, noise, cause in (("model", 0.5, GAP), ("pixels", 0.02, PIXELS)):
        a, b = other_answers(doubtful(ROWS, 0.0, 1), 1.0)
        b = changed(renoised(b, noise), lambda i, row: i % 5 == 0, other_pixels)
        assert set(compared(tmp_path / name, a, b).cause_counts) == {cause}


def photographed(folder: Path, alter: str) -> tuple[list[Row], list[Row]]:
    """Rows with real photos, of which B's decoder made something else."""
    catalogue = folder / "photos"
    catalogue.mkdir(parents=True)
    (catalogue / "catalogue.json").write_text("{}")
    rows, generator = copy.deepcopy(ROWS[:40]), np.random.default_rng(0)
    others = copy.deepcopy(rows)
    for row, other in zip(rows[:5], others[:5], strict=True):
        pixels = generator.integers(0, 250, (9, 12, 3), dtype=np.uint8)
        path = catalogue / f"{row['id']}.png"
        Image.fromarray(pixels).save(path)
        changed_pixels = dict(changes(pixels)).get(alter, generator.integers(0, 250, (9, 12, 3), dtype=np.uint8))
        for side, seen in ((row, pixels), (other, changed_pixels)):
            side["image"] = str(path)
            side["fingerprints"] = {
                "file": sha256_json([sha256_bytes(path.read_bytes())]), "pixels": sha256_bytes(seen.tobytes())
            }  # fmt: skip
    return rows, others


@pytest.mark.parametrize(
    "alter", ["has the colour channels in another order (BGR)", "is shifted by one pixel (right)", "is 1 level brighter", "?"]
)
def test_how_decoded_pixels_differ_is_proven_on_the_photos(tmp_path: Path, alter: str) -> None:
    a, b = photographed(tmp_path, alter)
    found = compared(tmp_path, a, b, catalogue=str(tmp_path / "photos"))
    (line,) = [remark for remark in found.remarks if "decoded pixels differ" in remark]
    assert line.startswith("decoded pixels differ in 5 of 40 rows")
    assert (f"B {alter}" in line) == (alter != "?") and ("proven" in line) == (alter != "?")


@pytest.mark.parametrize("lag", [1, -1])
def test_slipped_ids_are_found_and_named(tmp_path: Path, lag: int) -> None:
    slipped = copy.deepcopy(ROWS)
    for i, row in enumerate(slipped):
        row |= {key: ROWS[(i + lag) % len(ROWS)][key] for key in ("predicted", "text", "token_ids", "logprobs", "top_k")}
    found = compared(tmp_path, copy.deepcopy(ROWS), slipped)
    assert any(f"agreement at lag {lag}: 120 of 120 rows, at their own row 0" in remark for remark in found.remarks)
    assert found.cause_counts == {MISJOINED: 120}


def test_slipped_ids_of_predictions_without_texts_in_another_order_are_found(tmp_path: Path) -> None:
    slipped = [
        {"id": row["id"], "true": row["true"], "predicted": ROWS[(i + 1) % len(ROWS)]["predicted"]}
        for i, row in enumerate(ROWS)
    ]
    np.random.default_rng(0).shuffle(slipped)
    found = compared(tmp_path, copy.deepcopy(ROWS), slipped)
    assert any("agreement at lag 1: 120 of 120" in remark for remark in found.remarks)


def test_answers_that_are_mostly_alike_are_not_misjoined(tmp_path: Path) -> None:
    constant = changed(ROWS, lambda i, row: True, lambda row: answer(row, "Product: x, Category: BAGS, Full Price: 1.0"))
    assert not any("misjoined" in remark for remark in compared(tmp_path, constant, copy.deepcopy(constant)).remarks)


@pytest.mark.parametrize("change", [str.lower, lambda text: unicodedata.normalize("NFD", text)])
def test_case_and_unicode_form_are_named(tmp_path: Path, change: Any) -> None:
    rows = copy.deepcopy(ROWS)
    for row in rows:
        for side in (row["true"], row["predicted"]["category3_code"]):
            key = "category3_code" if "category3_code" in side else "value"
            side[key] = f"É{side[key]}"
    written = [{key: copy.deepcopy(row[key]) for key in ("id", "true", "predicted")} for row in rows]
    for row in written:
        row["predicted"]["category3_code"]["value"] = change(row["predicted"]["category3_code"]["value"])
    found = compared(tmp_path, rows, written)
    assert found.cause_counts == {SPELLING: 120}
    assert any("B's category3_code differs from the true value in case or Unicode form only" in line for line in found.remarks)


def test_another_word_is_not_another_spelling() -> None:
    assert alike("COATS", "coats") and alike("é", "e\u0301") and not alike("COAT", "COATS") and not alike("a", "a")
    assert not alike("e", "é") and not alike(1.0, 2.0)


def test_a_row_is_judged_field_by_field(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for row in rows:  # price wrong in both, category right in A alone
        row["predicted"]["full_price"]["value"] = 1e6
        row["predicted"]["category3_code"]["value"] = row["true"]["category3_code"]
    others = changed(rows, lambda i, row: i == 3, lambda row: row["predicted"]["category3_code"].update(value="NONE"))
    (found,) = compared(tmp_path, rows, others).diverged
    assert found.outcome == "both wrong"
    assert found.fields["category3_code"] == "only A" and found.fields["full_price"] == "both wrong"
    assert "category3_code only A" in outcome(found) and "full_price both wrong" in outcome(found)
