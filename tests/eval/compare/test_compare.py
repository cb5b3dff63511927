"""Two runs compared: planted differences are found and named, equal runs are called equal, nothing is left out silently."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eval.compare import divergence, run_table
from eval.compare.__main__ import main
from eval.compare.comparable import manifest_differences
from eval.compare.compare_runs import compare_runs
from eval.compare.comparison import Comparison
from eval.compare.cross_scores import cross_score, kl_top_k
from eval.compare.divergence import GAP, NEAR_TIE, NOT_RECORDED, PARSE_ONLY, PIXELS, SAMPLING, SCORE_ONLY, TOKEN_IDS
from eval.report.phrases import headline, inputs, more_rows
from eval.report.terminal import print_comparison, print_table
from eval.runs.prediction import Prediction
from eval.runs.run import Run
from eval.runs.scored_tokens import trace_path
from eval.runs.writer import write_baseline
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, FieldKind, Task
from tests.helpers.paths import ROOT
from tests.helpers.synthetic_runs import CATEGORIES, END, TASK, Row, answer, changed, digest, make_rows, write_run

ROWS = make_rows(300)


@pytest.fixture
def reference(tmp_path: Path) -> Run:
    return write_run(tmp_path / "a", copy.deepcopy(ROWS))


def compared(reference: Run, rows: list[Row], *, allow: tuple[str, ...] = (), raw: bool = False, **changes: Any) -> Comparison:
    other = write_run(reference.path.parent / "b", rows, label="other", raw=raw, **changes)
    return compare_runs(reference, other, allow=allow, resamples=300)


def every(n: int) -> Callable[[int, Row], bool]:
    return lambda i, row: i % n == 0


def other_category(row: Row) -> str:
    category = str(row["predicted"]["category3_code"]["value"])
    text: str = row["text"]
    return text.replace(f"Category: {category}", f"Category: {CATEGORIES[(CATEGORIES.index(category) + 1) % len(CATEGORIES)]}")


def test_a_run_against_itself_is_equivalent_and_diverges_nowhere(reference: Run) -> None:
    found = compared(reference, list(reversed(ROWS)))
    assert found.verdict == "EQUIVALENT" and found.exit_status == 0
    assert not found.diverged and not found.notes
    assert found.agreement == {name: (300, 300) for name in ("text", "tokens", "predicted")}
    assert all(row.difference == 0 for row in found.metrics)
    json.dumps(found.to_dict(), allow_nan=False)


# --- what must not differ is refused by name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"hashes": {"template": "f" * 64}}, "template"),
        ({"hashes": {"catalogue": "f" * 64}}, "catalogue"),
        ({"hashes": {"split": "f" * 64}}, "split"),
        ({"hashes": {"tokenizer": "f" * 64}}, "tokenizer"),
        ({"settings": {"num_crops": 16}}, "num_crops"),
        ({"settings": {"temperature": 0.7}}, "temperature"),
        ({"limit": 300}, "limit"),
        ({"shard": [1, 1]}, "shard"),
    ],
)
def test_runs_of_other_data_prompt_or_decoding_are_refused_unless_allowed_by_name(
    reference: Run, changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(UserError, match=rf"--allow {name}$"):
        compared(reference, ROWS, **changes)
    other = Run.load(reference.path.parent / "b")
    assert compare_runs(reference, other, allow=(name,), resamples=100).verdict == "EQUIVALENT"


def test_a_task_that_differs_is_named_by_what_differs_in_it(reference: Run) -> None:
    fields = tuple(dataclasses.replace(item, currency="EUR") if item.kind == "number" else item for item in TASK.fields)
    other = Task(fields, TASK.prompt.replace("this image?", "this picture?"), TASK.template)
    with pytest.raises(UserError) as error:
        compared(reference, ROWS, task=other)
    assert "task.fields.full_price.currency: USD | EUR" in str(error.value)
    assert "image?" in str(error.value) and "picture?" in str(error.value) and "--allow task" in str(error.value)


def test_every_refused_difference_is_named_at_once(reference: Run) -> None:
    with pytest.raises(UserError) as error:
        compared(reference, ROWS, hashes={"template": "x", "decoding": "y"}, settings={"max_new_tokens": 8})
    for name in ("template", "decoding", "max_new_tokens: 64 | 8"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hashes": {"adapter": "f" * 64}}, "adapter weights"),
        ({"hashes": {"base": "f" * 64}}, "base weights"),
        ({"settings": {"dtype": "bfloat16"}}, "dtype: float32 | bfloat16"),
        ({"settings": {"attn_implementation": "eager"}}, "attn_implementation"),
        ({"device": {"tf32": True}}, "device.tf32: False | True"),
        ({"adapter_config": {"lora_alpha": 32}}, "adapter_config: none | {'lora_alpha': 32}"),
    ],
)
def test_systems_under_test_may_differ_and_are_named(reference: Run, changes: dict[str, Any], named: str) -> None:
    found = compared(reference, ROWS, **changes)
    assert any(named in str(item) for item in found.differences if not item.refuses)


def test_a_hash_one_run_did_not_record_refuses_nothing(reference: Run) -> None:
    assert compared(reference, ROWS, hashes={"template": None, "decoding": None}).verdict == "EQUIVALENT"


def test_other_true_values_are_refused_and_when_allowed_are_score_only(reference: Run) -> None:
    rows = changed(ROWS, lambda i, row: i in (3, 8), lambda row: row["true"].update(full_price=1.0))
    with pytest.raises(UserError, match=r"2 rows \(p00003, p00008\)"):
        compared(reference, rows)
    found = compare_runs(reference, Run.load(reference.path.parent / "b"), allow=("truth",), resamples=100)
    assert {row.id: row.cause for row in found.diverged} == {"p00003": SCORE_ONLY, "p00008": SCORE_ONLY}


# --- rows


def test_a_missing_row_is_listed_and_left_out(reference: Run) -> None:
    found = compared(reference, [row for row in ROWS if row["id"] != "p00042"])
    assert found.a.only == ["p00042"] and found.b.only == [] and found.joined == 299
    assert any("p00042" in note for note in found.notes)


def test_many_missing_rows_withhold_equivalence(reference: Run) -> None:
    assert compared(reference, ROWS[:200]).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("alike", [True, False])
def test_a_repeated_row_is_named_and_counted_once(reference: Run, alike: bool) -> None:
    repeat = copy.deepcopy(ROWS[5])
    if not alike:
        answer(repeat, other_category(repeat))
    found = compared(reference, [*ROWS, repeat], raw=True)
    assert found.b.duplicates == [("p00005", alike)] and found.joined == 300 and not found.diverged
    note = next(note for note in found.notes if "p00005" in note)
    assert ("other values" in note) != alike


def test_runs_with_no_row_in_common_are_refused(reference: Run) -> None:
    rows = [{**row, "id": f"q{i}"} for i, row in enumerate(ROWS)]
    with pytest.raises(UserError, match=r"no whole row in common \(their ids are such as 'p00000' and 'q0'\)"):
        compared(reference, rows)


@pytest.mark.parametrize("changes", [{"split_rows": 299}, {"split_rows": 500, "limit": 100}, {"shard": [1, 2]}])
def test_more_rows_than_the_manifest_allows_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    a, b = (write_run(tmp_path / name, ROWS, **changes) for name in "ab")
    with pytest.raises(UserError, match=r"has 300 rows, but its manifest says .*predict again"):
        compare_runs(a, b, resamples=10)


def test_values_that_do_not_follow_from_their_answers_are_named(reference: Run) -> None:
    def better(row: Row) -> None:
        row["predicted"]["category3_code"]["value"] = row["true"]["category3_code"]

    rows = changed(ROWS, every(1), better)
    assert not any("hold other values" in remark for remark in compared(reference, ROWS[:290]).remarks)
    shutil.rmtree(reference.path.parent / "b")
    unlike = [row["id"] for row, own in zip(rows, ROWS) if row["predicted"] != own["predicted"]]
    found = compared(reference, rows)
    assert [r for r in found.remarks if r.startswith(f"{len(unlike)} of B's 300 rows, such as {unlike[0]}, hold other values")]


def test_values_that_had_columns_of_their_own_follow_from_no_answer(tmp_path: Path) -> None:
    imported = [
        {**row, "text": text, "token_ids": [], "logprobs": [], "top_k": []} for row, text in zip(ROWS, ["", None] * 150)
    ]
    found = compare_runs(write_run(tmp_path / "a", imported), write_run(tmp_path / "b", ROWS), resamples=10)
    assert not any("hold other values" in remark or "are empty" in remark for remark in found.remarks)


def test_without_a_true_value_the_headline_names_the_field(tmp_path: Path) -> None:
    rows = changed(ROWS, every(1), lambda row: row["true"].update(full_price=None))
    found = compare_runs(*(write_run(tmp_path / name, rows, label=name) for name in "ab"), resamples=10)
    assert headline(found) == "no row has a true value of full_price: whether b is as good as a cannot be said"
    assert more_rows(found) == "Rows with true values would decide it: add them to the catalogue."


def test_runs_of_one_label_are_told_apart(reference: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", ROWS)
    assert headline(compare_runs(reference, other, resamples=10)) == (
        "B (reference) is as good as A (reference), within the margins"
    )
    text = printed(lambda console: print_table(console, [reference, other], reference), tmp_path / "out.txt")
    assert f"reference ({reference.path.name})" in text and "reference (other)" in text


def test_an_unfinished_run_is_reported(reference: Run) -> None:
    other = write_run(reference.path.parent / "b", ROWS[:290], finish=False)
    assert any("unfinished" in note for note in compare_runs(reference, other, resamples=100).notes)


# --- planted differences of answers, each with its one cause


def test_five_percent_category_flips_are_found_and_named(tmp_path: Path) -> None:
    rows = make_rows(1000)
    flips = random.Random(0)
    chosen = {row["id"] for row in rows if flips.random() < 0.05}
    flipped = changed(rows, lambda i, row: row["id"] in chosen, lambda row: answer(row, other_category(row)))
    a, b = write_run(tmp_path / "a", rows), write_run(tmp_path / "b", flipped, label="flips")
    found = compare_runs(a, b, resamples=300)
    assert found.verdict == "WORSE" and found.exit_status == 1 and "worse" in headline(found)
    assert {row.id for row in found.diverged} == chosen and found.cause_counts == {GAP: len(chosen)}
    states = {gate.metric: gate.state for gate in found.gates}
    assert states == {"accuracy": "worse", "within_10": "same"}
    (accuracy,) = [row for row in found.metrics if row.metric == "accuracy"]
    right = {row["id"] for row in rows if row["predicted"]["category3_code"]["value"] == row["true"]["category3_code"]}
    assert accuracy.only_a == len(chosen & right)


def test_a_price_parser_slip_is_parse_only(reference: Run) -> None:
    slip = changed(
        ROWS, every(10), lambda row: row["predicted"]["full_price"].update(value=row["predicted"]["full_price"]["value"] / 10)
    )
    found = compared(reference, slip)
    assert found.cause_counts == {PARSE_ONLY: 30} and found.verdict == "WORSE"
    assert next(row for row in found.metrics if row.metric == "slips").b == pytest.approx(0.1, abs=0.02)
    assert all("full_price" in row.parsed_differently for row in found.diverged)


def test_another_decoders_pixels_are_named_even_where_answers_agree(reference: Run) -> None:
    def decode(row: Row) -> None:
        row["fingerprints"] |= {"pixels": digest("other", row["id"]), "pixel_values": digest("other", row["id"])}

    found = compared(reference, changed(ROWS, every(1), decode))
    assert found.verdict == "EQUIVALENT" and not found.diverged
    assert found.inputs == {"file": (0, 300), "pixels": (300, 300), "pixel_values": (300, 300), "input_ids": (0, 300)}
    (line,) = inputs(found)
    assert "first in the decoded pixels" in line and "300 of 300" in line


def plant(stage: str, also: tuple[str, ...] = ()) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        for name in (stage, *also):
            row["fingerprints"][name] = digest("planted", row["id"])
        answer(row, other_category(row))

    return change


@pytest.mark.parametrize(
    ("change", "cause", "detail"),
    [
        (plant("pixels", ("pixel_values",)), PIXELS, "decoded pixels differ"),
        (plant("pixel_values"), PIXELS, "crop order"),  # a swapped pair of crops
        (plant("input_ids"), TOKEN_IDS, "prompt or tokenizer"),
        (plant("file"), GAP, "token"),  # a re-saved file with the same pixels explains nothing
    ],
)
def test_other_inputs_are_the_cause_of_other_answers(
    reference: Run, change: Callable[[Row], None], cause: str, detail: str
) -> None:
    found = compared(reference, changed(ROWS, every(20), change))
    assert found.cause_counts == {cause: 15}
    assert all(detail in row.detail for row in found.diverged)


def test_another_prompt_is_refused_and_when_allowed_is_token_ids(reference: Run) -> None:
    rows = changed(ROWS, every(1), lambda row: row["fingerprints"].update(input_ids=digest("prompt", row["id"])))
    rows = changed(rows, every(10), lambda row: answer(row, other_category(row)))
    with pytest.raises(UserError, match="template"):
        compared(reference, rows, hashes={"template": "e" * 64})
    found = compare_runs(reference, Run.load(reference.path.parent / "b"), allow=("template",), resamples=100)
    assert found.cause_counts == {TOKEN_IDS: 30}


def with_runner_up(row: Row, k: int, token: int, margin: float) -> None:
    row["logprobs"][k] = -0.7
    row["top_k"][k] = [[row["token_ids"][k], -0.7], [token, -0.7 - margin]]


@pytest.mark.parametrize(("margin", "cause"), [(0.001, NEAR_TIE), (0.5, GAP)])
def test_a_margin_separates_near_ties_from_gaps(tmp_path: Path, margin: float, cause: str) -> None:
    rows = copy.deepcopy(ROWS[:50])
    others = changed(rows, lambda i, row: i == 7, lambda row: answer(row, other_category(row)))
    k = divergence.first_difference(rows[7]["token_ids"], others[7]["token_ids"])
    with_runner_up(rows[7], k, others[7]["token_ids"][k], margin)
    with_runner_up(others[7], k, rows[7]["token_ids"][k], margin / 2)
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", others), resamples=100)
    (row,) = found.diverged
    assert (row.cause, row.position) == (cause, k) and row.margin == pytest.approx(margin)


def test_near_ties_are_wider_in_bf16(reference: Run) -> None:
    bf16 = {"settings": {"dtype": "bfloat16"}}
    assert divergence.near_tie_nats(reference.manifest, reference.manifest) < divergence.near_tie_nats(reference.manifest, bf16)


@pytest.mark.parametrize("kind", ["length", "end"])
def test_an_answer_that_ends_early_is_named_length_or_end_token(tmp_path: Path, kind: str) -> None:
    rows = copy.deepcopy(ROWS[:50])
    others = changed(rows, lambda i, row: i == 3, lambda row: answer(row, row["text"][:-4], finish=kind))
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", others), resamples=100)
    assert [row.cause for row in found.diverged] == [divergence.END]
    assert ("limit" in found.diverged[0].detail) == (kind == "length")


def test_an_end_token_that_ties_is_a_near_tie_first() -> None:
    a, b = (answer({"id": "x", "true": {}}, text) for text in ("Product: a", "Product: ab"))
    k = len("Product: a")
    with_runner_up(a, k, ord("b"), 0.001)
    with_runner_up(b, k, END, 0.001)
    found = divergence.explain_divergence(Prediction.from_dict(a), Prediction.from_dict(b), near_tie=0.01)
    assert found.cause == NEAR_TIE


def test_drawn_answers_are_not_explained_as_ties(reference: Run) -> None:
    rows = changed(ROWS, every(30), lambda row: answer(row, other_category(row)))
    found = compared(reference, rows, settings={"temperature": 0.5}, allow=("temperature",))
    assert found.cause_counts == {SAMPLING: 10}


@pytest.mark.parametrize("recorded", [("text",), ()])
def test_without_tokens_or_log_probabilities_the_cause_is_not_guessed(reference: Run, recorded: tuple[str, ...]) -> None:
    rows = changed(ROWS, every(30), lambda row: answer(row, other_category(row)))
    base = ("id", "true", "predicted", *recorded)
    found = compared(reference, [{name: row[name] for name in base} for row in rows])
    assert found.cause_counts == {NOT_RECORDED: 10}
    assert "not recorded" in inputs(found)[0]


def test_one_runs_log_probabilities_suffice_for_a_gap_but_not_for_a_near_tie(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS[:20])
    others = changed(rows, lambda i, row: i < 2, lambda row: answer(row, other_category(row)))
    k = divergence.first_difference(rows[0]["token_ids"], others[0]["token_ids"])
    with_runner_up(rows[0], k, others[0]["token_ids"][k], 0.001)
    for row in others:
        del row["logprobs"], row["top_k"]
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", others), resamples=50)
    assert {row.id: row.cause for row in found.diverged} == {"p00000": NOT_RECORDED, "p00001": GAP}


def diverges(a: Row, b: Row) -> bool:
    return any(a[key] != b[key] for key in ("text", "token_ids", "predicted", "true"))


def test_every_diverged_row_has_one_cause_worst_first(reference: Run) -> None:
    generator = random.Random(5)
    kinds: list[Callable[[Row], object]] = [
        lambda row: answer(row, other_category(row)),
        lambda row: answer(row, row["text"].replace("Product: ", "Product: a ")),
        lambda row: row["predicted"]["full_price"].update(value=3.0),
        lambda row: answer(row, "no idea"),
        plant("pixel_values"),
    ]
    rows = changed(ROWS, every(3), lambda row: generator.choice(kinds)(row))
    found = compared(reference, rows)
    assert len(found.diverged) == sum(diverges(a, b) for a, b in zip(ROWS, rows)) == sum(found.cause_counts.values())
    severities = [row.severity for row in found.diverged]
    assert severities == sorted(severities, reverse=True) and severities[0] > severities[-1]


# --- measures


def test_both_parsed_and_category_measures_cover_their_rows(reference: Run) -> None:
    found = compared(reference, changed(ROWS, every(10), lambda row: answer(row, "no idea")))
    accuracy = {row.metric: row for row in found.both_parsed if row.field == "category3_code"}["accuracy"]
    assert accuracy.rows == 270 and accuracy.difference == 0
    (overall,) = [row for row in found.metrics if row.metric == "accuracy"]
    assert overall.rows == 300 and overall.difference is not None and overall.difference < -0.05
    sizes = {name: next(row.rows for row in rows if row.metric == "accuracy") for name, rows in found.by_category.items()}
    assert sum(sizes.values()) == 300 and set(sizes) == set(CATEGORIES)


@pytest.mark.parametrize("kind", ["category", "number", "text"])
def test_a_task_of_one_field_compares(tmp_path: Path, kind: FieldKind) -> None:
    task = Task((Field("value", kind),), "p", "Value: {value}")
    rows = []
    for i in range(300):
        value = 10.0 + i if kind == "number" else f"v{i % 4}"
        rows.append(answer({"id": str(i), "true": {"value": value}}, task.answer({"value": value}), task=task))
    a, b = (write_run(tmp_path / name, rows, task=task) for name in "ab")
    found = compare_runs(a, b, resamples=100)
    assert found.verdict == "EQUIVALENT" and [gate.field for gate in found.gates] == ["value"]
    assert "value" in printed(lambda console: print_comparison(console, found), tmp_path / "out")


def test_margins_decide(reference: Run) -> None:
    other = write_run(reference.path.parent / "b", changed(ROWS, every(60), lambda row: answer(row, other_category(row))))
    verdicts = [
        compare_runs(reference, other, margins={"accuracy": margin, "within_10": 0.02}, resamples=100).verdict
        for margin in (0.005, 0.1)
    ]
    assert verdicts == ["INCONCLUSIVE", "EQUIVALENT"]
    with pytest.raises(UserError, match="no margin can be set"):
        compare_runs(reference, other, margins={"median_ape": 0.1})


def test_the_same_seed_gives_the_same_report(reference: Run) -> None:
    rows = changed(ROWS, every(9), lambda row: answer(row, other_category(row)))
    first = compared(reference, rows)
    other = Run.load(reference.path.parent / "b")
    assert compare_runs(reference, other, resamples=300).to_dict() == first.to_dict()
    assert compare_runs(reference, other, resamples=300, seed=1).to_dict() != first.to_dict()


# --- noise floor and trace


def jittered(scale: float, seed: int) -> list[Row]:
    generator = np.random.default_rng(seed)
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["logprobs"] = (np.array(row["logprobs"]) + generator.normal(0, scale, len(row["logprobs"]))).tolist()
    return rows


def test_the_gap_is_reported_as_a_multiple_of_the_noise_floor(reference: Run, tmp_path: Path) -> None:
    floor = write_run(tmp_path / "floor", jittered(0.001, 1), label="batch 1", batch_size=1)
    other = write_run(tmp_path / "b", jittered(0.01, 2), label="mlx")
    found = compare_runs(reference, other, floor=[floor], resamples=100)
    assert found.noise.mean == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.05)
    assert found.floors[0].times_mean == pytest.approx(10, rel=0.05)
    assert found.floors[0].times_diverged is None  # no answer diverges in the floor


def test_a_floor_may_have_fewer_rows(reference: Run, tmp_path: Path) -> None:
    floor = write_run(tmp_path / "floor", ROWS[:2], label="batch 1", batch_size=1, limit=2)
    other = write_run(tmp_path / "b", ROWS)
    assert [found.label for found in compare_runs(reference, other, floor=[floor], resamples=10).floors] == ["batch 1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": {"adapter": "f" * 64}}, "is no run of what .* is a run of: adapter weights"),
        ({"hashes": {"catalogue": "f" * 64}}, "differ in what must be equal: catalogue"),
        ({"settings": {"num_crops": 16}}, "differ in what must be equal: num_crops"),
    ],
)
def test_a_floor_of_another_run_than_the_reference_is_refused(
    reference: Run, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other, floor = write_run(tmp_path / "b", ROWS), write_run(tmp_path / "floor", ROWS, **changes)
    with pytest.raises(UserError, match=message):
        compare_runs(reference, other, floor=[floor], resamples=10)
    with pytest.raises(UserError, match="is the reference itself"):
        compare_runs(reference, other, floor=[reference], resamples=10)


def test_log_probabilities_count_only_up_to_the_first_difference(tmp_path: Path) -> None:
    a, b = (answer({"id": "x", "true": {}}, text) for text in ("abcd", "abXd"))
    b["logprobs"] = [-0.01, -0.03, -9.0, -9.0, -9.0]
    found = compare_runs(write_run(tmp_path / "a", [a]), write_run(tmp_path / "b", [b]), resamples=50)
    assert found.noise.tokens == 2 and found.noise.largest == pytest.approx(0.02)


def test_kl_over_the_top_k_is_a_lower_bound_of_the_true_one() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p, q = (np.log(generator.dirichlet(np.ones(30))) for _ in range(2))
        tops = [[(int(i), side[i]) for i in np.argsort(-side)[:5]] for side in (p, q)]
        true = float((np.exp(p) * (p - q)).sum())
        assert 0 <= kl_top_k(*tops) <= true + 1e-9
    whole = [[(i, side[i]) for i in range(30)] for side in (p, q)]
    assert kl_top_k(*whole) == pytest.approx(true, abs=1e-6)
    assert kl_top_k(tops[0], tops[0]) == 0.0


def test_a_trace_gives_gap_and_first_divergence(reference: Run, tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["top_k"] = [[[t, -0.01], [1, -5.01]] for t in row["token_ids"]]
    other = write_run(tmp_path / "b", rows)
    with open(trace_path(reference, other), "w") as file:
        for row in rows:
            top_k = copy.deepcopy(row["top_k"])
            logprobs = [x - 0.25 for x in row["logprobs"]]
            if row["id"] == "p00004":
                top_k[6] = [[ord("Z"), -0.01], [row["token_ids"][6], -5.0]]
                logprobs[6] = -5.0
            file.write(
                json.dumps({"id": row["id"], "token_ids": row["token_ids"], "logprobs": logprobs, "top_k": top_k}) + "\n"
            )
    (direction,) = cross_score(compare_runs(reference, other, resamples=50).data)
    assert (direction.scored, direction.under, direction.rows) == ("B", "A", 300)
    assert direction.mean_gap == pytest.approx(0.25, abs=0.001)
    assert direction.diverging == 1 and direction.median_divergence == 6
    assert direction.worst[0][0] == "p00004" and direction.worst[0][2] == 6
    assert direction.largest_kl is not None and direction.largest_kl > 1


def test_a_missing_or_foreign_trace_is_an_error(reference: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "b", copy.deepcopy(ROWS))
    data = compare_runs(reference, other, resamples=50).data
    with pytest.raises(UserError, match="no trace found"):
        cross_score(data)
    trace_path(reference, other).write_text(json.dumps({"id": "p00000", "token_ids": [1], "logprobs": [0.0]}) + "\n")
    with pytest.raises(UserError, match="other tokens"):
        cross_score(data)


def test_a_trace_of_a_run_without_log_probabilities_is_an_error(reference: Run, tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    trace = json.dumps({key: rows[0][key] for key in ("id", "token_ids", "logprobs")})
    del rows[0]["logprobs"]
    other = write_run(tmp_path / "b", rows)
    trace_path(reference, other).write_text(trace + "\n")
    with pytest.raises(UserError, match="holds no log-probabilities for 'p00000'"):
        cross_score(compare_runs(reference, other, resamples=50).data)


# --- the command


def test_exit_status_follows_the_verdict(reference: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "same", ROWS)
    write_run(tmp_path / "worse", changed(ROWS, every(5), lambda row: answer(row, other_category(row))))
    write_run(tmp_path / "few", ROWS[:30])
    write_run(tmp_path / "few2", changed(ROWS[:30], every(15), lambda row: answer(row, other_category(row))))
    write_run(tmp_path / "prompt", ROWS, hashes={"template": "f" * 64})
    a = str(reference.path)
    statuses = [main([a, str(tmp_path / name), "--resamples", "100"]) for name in ("same", "worse")]
    statuses.append(main([str(tmp_path / "few"), str(tmp_path / "few2"), "--resamples", "100"]))
    assert statuses == [0, 1, 3]
    assert "more rows would decide it" in capsys.readouterr().out
    assert main([a, str(tmp_path / "prompt")]) == 2
    assert "--allow template" in capsys.readouterr().err
    assert main([a, str(tmp_path / "nowhere")]) == 2
    capsys.readouterr()
    assert main([a]) == 2
    assert "give two runs" in capsys.readouterr().err


def test_a_baseline_fails_on_a_loss_and_passes_a_gain(reference: Run, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.jsonl"
    write_baseline(reference, baseline)
    gained = changed(
        ROWS,
        every(1),
        lambda row: answer(row, TASK.answer(row["true"])),
    )
    write_run(tmp_path / "better", gained)
    write_run(tmp_path / "worse", changed(ROWS, every(5), lambda row: answer(row, other_category(row))))
    statuses = {
        name: main([str(tmp_path / name), "--baseline", str(baseline), "--resamples", "100"])
        for name in ("a", "better", "worse")
    }
    assert statuses == {"a": 0, "better": 0, "worse": 1}


def test_a_baseline_keeps_what_the_causes_need(reference: Run, tmp_path: Path) -> None:
    write_baseline(reference, tmp_path / "baseline.jsonl")
    kinds: list[Callable[[Row], object]] = [lambda row: answer(row, other_category(row)), plant("pixels", ("pixel_values",))]
    rows = changed(ROWS, every(10), lambda row: kinds[int(row["id"][1:]) // 10 % 2](row))
    other = write_run(tmp_path / "b", rows)
    baseline = compare_runs(Run.load(tmp_path / "baseline.jsonl"), other, one_sided=True, resamples=50)
    assert baseline.cause_counts == compare_runs(reference, other, resamples=50).cause_counts == {PIXELS: 15, GAP: 15}
    assert baseline.inputs["pixels"] == (15, 300) and baseline.noise.tokens > 0


def test_json_is_the_whole_report_and_valid(reference: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "b", changed(ROWS, every(7), lambda row: answer(row, other_category(row))))
    status = main([str(reference.path), str(tmp_path / "b"), "--json", "--resamples", "100"])
    value = json.loads(capsys.readouterr().out)
    assert value["exit_status"] == status and value["verdict"] == "WORSE" and len(value["parted"]) == 43


def test_json_keys_stay_those_of_schema_1(reference: Run, tmp_path: Path) -> None:
    rows = changed(ROWS, every(7), lambda row: answer(row, other_category(row)))
    other = write_run(tmp_path / "b", rows, batch_size=1)
    value = compare_runs(reference, other, floor=[other], resamples=50).to_dict()
    assert list(value) == [
        "schema", "verdict", "exit_status", "decision", "a", "b", "joined", "differences", "notes", "metrics", "both_parsed",
        "by_category", "agreement", "outcomes", "inputs", "cause_counts", "parted", "noise", "floors", "near_tie", "seed",
        "resamples", "one_sided", "trace", "first_line", "remarks", "guards", "guards_count", "simple", "absent",
        "logit_noise", "all_cause_counts", "trainings", "products", "claim", "error_places",
    ]  # fmt: skip
    assert list(value["parted"][0]) == [
        "id", "cause", "detail", "reading", "position", "margin", "outcome", "category", "severity", "causes",
        "fields",
    ]  # fmt: skip
    assert list(value["noise"]) == ["rows", "parted", "tokens", "mean", "median", "p99", "largest"]
    assert list(value["floors"][0]) == ["label", "noise", "times_parted", "times_mean"]
    assert list(value["differences"][0]) == ["name", "a", "b", "refuses"]


def printed(show: Callable[[Console], None], path: Path) -> str:
    with open(path, "w", encoding="utf-8") as file:
        show(Console(file=file, width=200, highlight=False))
    return path.read_text(encoding="utf-8")


def test_the_report_fits_80_columns_and_shows_markup_as_text(tmp_path: Path) -> None:
    rows = copy.deepcopy(ROWS)
    hostile = "Product: x, Category: [bold red]BAGS[/bold red] \x1b[31m, Full Price: 1.0"
    others = changed(rows, every(6), lambda row: answer(row, hostile))
    long = "a label that is far too long for one line of a terminal, but that somebody gave all the same"
    found = compare_runs(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", others, label=long), resamples=100)
    text = printed(lambda console: print_comparison(console, found), tmp_path / "out.txt")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "[bold red]BAGS" in text
    assert "\x1b[31m" not in text
    for word in ("WORSE", "accuracy", "macro-F1", "within 10 %", "Why answers diverge", "log-probability gap"):
        assert word in text


def test_no_id_label_or_answer_acts_on_the_terminal(tmp_path: Path) -> None:
    acting = "\x1b]0;x\x07\u202e\x9b2J"
    rows = make_rows(20)
    others = changed(rows, every(2), lambda row: answer(row, f"Product: {acting}, Category: {acting}, Full Price: 1.0"))
    for row in (*rows, *others):
        row["id"] = acting + row["id"]
    found = compare_runs(
        write_run(tmp_path / "a", rows, label=acting), write_run(tmp_path / "b", others, label=acting), resamples=50
    )
    text = printed(lambda console: print_comparison(console, found), tmp_path / "out.txt")
    assert "\\x1b]0;x" in text and not set(text) & set("\x1b\x07\x9b\u202e")


def test_a_table_holds_every_run_against_the_reference(reference: Run, tmp_path: Path) -> None:
    worse = write_run(tmp_path / "4bit", changed(ROWS, every(5), lambda row: answer(row, other_category(row))), label="4 bit")
    same = write_run(tmp_path / "8bit", ROWS, label="8 bit", settings={"quantization": {"bits": 8}})
    text = printed(lambda console: print_table(console, [reference, same, worse], reference), tmp_path / "out.txt")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.index("reference") < text.index("8 bit") < text.index("4 bit")
    assert "EQUIVALENT" in text and "WORSE" in text and "100.0 %" in text and "80.0 %" in text


def test_a_tables_verdicts_hold_over_all_its_runs(reference: Run, tmp_path: Path) -> None:
    # 155 equal rows show equivalence at 5 % (139 do), not at 2.5 %: two such runs in one table do not pass together.
    a = write_run(tmp_path / "ref", ROWS[:155])
    one, other = (write_run(tmp_path / name, ROWS[:155], label=name) for name in ("one", "other"))
    alone = run_table.tabulate([a, one], a, resamples=20)
    assert [row.verdict for row in alone.rows] == ["", "EQUIVALENT"]
    together = run_table.tabulate([a, one, other], a, resamples=20)
    assert [row.verdict for row in together.rows] == ["", "INCONCLUSIVE", "INCONCLUSIVE"]
    assert [row.alone for row in together.rows] == ["", "EQUIVALENT", "EQUIVALENT"]


def test_a_table_says_of_each_run_what_a_comparison_says_first(reference: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "b", [*ROWS, ROWS[3]], raw=True, label="with repeats")
    better = write_run(
        tmp_path / "c", changed(ROWS, every(1), lambda row: answer(row, TASK.answer(row["true"]))), label="right"
    )
    text = printed(lambda console: print_table(console, [reference, other], reference), tmp_path / "out.txt")
    assert "! with repeats: 1 row repeated in B" in text and max(len(line) for line in text.splitlines()) <= 80
    assert [row.verdict for row in run_table.tabulate([better], reference, resamples=10, one_sided=True).rows] == [
        "",
        "NO WORSE",
    ]
    with pytest.raises(UserError, match="is given twice"):
        run_table.tabulate([reference, other, other], reference)


def test_comparing_imports_no_framework() -> None:
    script = "import sys, eval.compare, eval.import_run, eval.merge, eval.score; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    for name in ("torch", "mlx", "mlx.core", "transformers"):
        assert f"'{name}'" not in done.stdout


def test_equal_manifests_have_no_difference(reference: Run) -> None:
    assert manifest_differences(reference.manifest, copy.deepcopy(reference.manifest)) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--allow", "NONSENSE"], "--allow NONSENSE is no difference that runs may have"),
        (["--allow", "num_crop"], "did you mean num_crops?"),
        (["--reference", "A"], "--reference is for a table of three runs or more"),
        (["A", "--near-tie", "0.1"], "--near-tie and --guards off are for two runs"),
        (["A", "--guards", "off"], "--near-tie and --guards off are for two runs"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(
    reference: Run, capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str
) -> None:
    given = [str(reference.path) if word == "A" else word for word in flags]
    assert main([str(reference.path), str(reference.path), *given]) == 2
    assert sentence in capsys.readouterr().err


def test_a_difference_that_is_not_there_may_be_allowed(reference: Run) -> None:
    assert main([str(reference.path), str(reference.path), "--resamples", "10", "--allow", "truth", "top_p", "template"]) == 0
