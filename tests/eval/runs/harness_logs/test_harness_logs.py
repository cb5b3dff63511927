"""Logs of harnesses become runs that get a verdict; what is no such log is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare.compare_runs import compare_runs
from eval.import_run import main
from eval.runs.harness_logs import read_log
from eval.runs.import_config import ImportConfig
from eval.runs.imported import import_run
from eval.runs.run import Run
from eval.score import main as score_main
from mlx_phi3v.errors import UserError
from tests.helpers.catalogue import write_catalogue
from tests.helpers.harness_logs import (
    LM_EVAL_NAME,
    LMMS_NAME,
    chosen,
    generated,
    inspect_header,
    inspect_sample,
    multimodal,
    write_eval,
    write_lines,
)  # fmt: skip


def imported(path: Path, output: Path, **more: Any) -> Run:
    return import_run(ImportConfig(path, output=output, **more))


def test_generated_answers_are_scored_as_the_harness_scored_them(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "org__small" / LM_EVAL_NAME, (generated(i, i % 4 != 0) for i in range(8)))
    run = imported(path, tmp_path / "run")
    assert [item.name for item in run.task.fields] == ["exact_match"] and run.task.fields[0].kind == "score"
    assert (run.label, run.manifest["split"], run.manifest["backend"]) == ("org__small", "gsm8k", "lm-evaluation-harness")
    first, second = run.rows[:2]
    assert (first.id, first.predicted["exact_match"].value, first.text) == ("0", 0.0, "I think it is x")
    assert second.predicted["exact_match"].value == 1.0 and second.true["target"] == "1"


def test_two_filters_of_one_document_are_two_scores_of_one_row(tmp_path: Path) -> None:
    lines = [generated(i, i > 1 or name == "b", filter=name) for i in range(4) for name in ("a", "b")]
    run = imported(write_lines(tmp_path / "x.jsonl", lines), tmp_path / "run")
    assert len(run.rows) == 4 and [item.name for item in run.task.fields] == ["exact_match,a", "exact_match,b"]
    assert [row.predicted["exact_match,a"].value for row in run.rows] == [0.0, 0.0, 1.0, 1.0]


def test_a_choice_is_its_words_and_one_score_can_be_taken(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", (chosen(i, i % 2) for i in range(4)))
    run = imported(path, tmp_path / "run", score=("acc",))
    assert [item.name for item in run.task.fields] == ["acc"]
    assert [(row.text, row.predicted["acc"].value) for row in run.rows[:2]] == [("word 0", 1.0), ("word 1", 0.0)]
    with pytest.raises(UserError, match="no score 'accuracy'; its scores are acc, acc_norm"):
        imported(path, tmp_path / "other", score=("accuracy",))


def test_lmms_eval_is_told_by_its_shape_and_its_objects_give_their_score(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "qwen" / LMMS_NAME, (multimodal(i, i != 2) for i in range(4)))
    log = read_log(path)
    assert (log.tool, log.task, log.model, log.scores) == ("lmms-eval", "mme", "qwen", ["mme_score"])
    assert [sample.scores["mme_score"] for sample in log.samples] == [1.0, 1.0, 0.0, 1.0]
    assert log.left_out == {"submission": "no number"} and log.samples[2].text == "No"


@pytest.mark.parametrize("method", [8, 93])
def test_an_inspect_archive_is_read_packed_either_way(tmp_path: Path, method: int) -> None:
    samples = [inspect_sample(i, "C" if i % 2 else "I") for i in range(1, 5)]
    log = read_log(write_eval(tmp_path / "x.eval", samples, method=method))
    assert (log.tool, log.task, log.model, log.split_rows) == ("Inspect", "even", "openai/small", 4)
    assert [sample.scores["match"] for sample in log.samples] == [1.0, 0.0, 1.0, 0.0]
    document = {**inspect_header(4), "samples": samples}
    (tmp_path / "x.json").write_text(json.dumps(document))
    assert read_log(tmp_path / "x.json").samples[0].document == log.samples[0].document


def test_epochs_of_one_sample_are_one_row_with_their_mean(tmp_path: Path) -> None:
    values = {1: ("C", "I", "P"), 2: ("N", "C", "C")}
    samples = [inspect_sample(i, value, epoch=n) for i, v in values.items() for n, value in enumerate(v, 1)]
    log = read_log(write_eval(tmp_path / "x.eval", samples))
    assert [sample.scores["match"] for sample in log.samples] == [pytest.approx(0.5), pytest.approx(2 / 3)]


def test_a_score_that_is_no_share_is_left_out_with_its_place(tmp_path: Path) -> None:
    lines = [generated(i, True, metrics=["exact_match", "grade"], grade=float(i)) for i in range(4)]
    log = read_log(write_lines(tmp_path / "x.jsonl", lines))
    assert log.scores == ["exact_match"] and log.left_out == {"grade": "2 in line 3 is no share from 0 to 1"}
    with pytest.raises(UserError, match="--score grade cannot be judged: 2 in line 3"):
        log.choose(("grade",))


def test_a_sample_without_its_score_counts_as_zero_and_is_counted(tmp_path: Path) -> None:
    samples = [inspect_sample(i, float("nan") if i == 3 else "C") for i in range(1, 5)]
    path = write_eval(tmp_path / "x.eval", samples)
    assert "1 sample lacks a score, which counts as 0" in read_log(path).sentence()
    run = imported(path, tmp_path / "run")
    assert run.rows[2].predicted["match"].status == "missing"
    row = next(row for row in compare_runs(run, run, resamples=10).metrics if row.metric == "score")
    assert row.a == 0.75 and row.rows == 4


def test_without_scores_the_answer_is_held_against_the_target(tmp_path: Path) -> None:
    lines = [generated(i, i % 3 != 0, metrics=[]) for i in range(300)]
    run = imported(write_lines(tmp_path / "x.jsonl", lines), tmp_path / "run")
    assert [item.kind for item in run.task.fields] == ["text"] and run.rows[1].text == "1"
    found = compare_runs(run, run, resamples=10)
    assert found.gates[0].metric == "ratio" and next(row for row in found.metrics if row.metric == "exact").a == 200 / 300


def scored(folder: Path, right: np.ndarray[Any, Any], name: str) -> Run:
    path = write_lines(folder / name / LM_EVAL_NAME, (generated(i, bool(value)) for i, value in enumerate(right)))
    return imported(path, folder / f"run-{name}")


def test_two_models_that_a_harness_scored_get_a_verdict(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    right = generator.random(1500) < 0.7
    a = scored(tmp_path, right, "a")
    near = scored(tmp_path, right ^ (generator.random(1500) < 0.01), "near")
    worse = scored(tmp_path, right & (generator.random(1500) < 0.9), "worse")
    nothing = scored(tmp_path, np.zeros(1500, dtype=bool), "nothing")
    assert compare_runs(a, near, resamples=10).verdict == "EQUIVALENT"
    found = compare_runs(a, worse, resamples=10)
    assert (found.verdict, found.gates[0].field, found.gates[0].metric) == ("WORSE", "exact_match", "score")
    none = compare_runs(nothing, scored(tmp_path, np.zeros(1500, dtype=bool), "none"), resamples=10)
    assert none.verdict == "NOT MEANINGFUL" and "always wrong" in none.first_line


def test_a_score_of_zeros_and_ones_is_tested_as_a_share_is(tmp_path: Path) -> None:
    from eval.compare.statistics import PairedProportion, normal_quantile

    right = np.arange(400) % 3 > 0
    a, b = scored(tmp_path, right, "a"), scored(tmp_path, right ^ (np.arange(400) % 29 == 0), "b")
    gate = compare_runs(a, b, resamples=10).gates[0]
    changed = np.arange(400) % 29 == 0
    share = PairedProportion(int((changed & right).sum()), int((changed & ~right).sum()), 400)
    # Both intervals are found by bisection, to 2 ** -30 of at most 2.
    assert gate.interval == pytest.approx(share.interval(normal_quantile(0.9)), abs=1e-8)


def test_another_document_under_one_id_refuses_the_comparison(tmp_path: Path) -> None:
    a = imported(write_lines(tmp_path / "a.jsonl", (chosen(i, 0) for i in range(5))), tmp_path / "ra")
    others = (chosen(i, 0, doc={"question": f"which is {i + 1}?"}) for i in range(5))
    b = imported(write_lines(tmp_path / "b.jsonl", others), tmp_path / "rb")
    with pytest.raises(UserError, match="other true values"):
        compare_runs(a, b, resamples=10)


def test_an_address_in_a_document_is_no_difference(tmp_path: Path) -> None:
    runs = []
    for k, name in enumerate("ab"):
        lines = [generated(i, True, doc={"photo": f"<Image size=4x4 at 0x7F{k}{i}>"}) for i in range(5)]
        runs.append(imported(write_lines(tmp_path / f"{name}.jsonl", lines), tmp_path / f"run-{name}"))
    assert not compare_runs(*runs, resamples=10).differences


def test_scoring_a_run_again_keeps_the_harness_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(write_lines(tmp_path / "x.jsonl", (generated(i, i % 2 == 0) for i in range(4))), tmp_path / "run")
    assert score_main([str(tmp_path / "run"), "--json", "--resamples", "5", "--output", str(tmp_path / "again")]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["read_differently"] == 0 and scores["fields"]["exact_match"]["metrics"]["score"]["value"] == 0.5
    assert Run.load(tmp_path / "again").content_hash() == Run.load(tmp_path / "run").content_hash()


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "no samples": ("x.json", json.dumps({**inspect_header(0), "samples": []}), "holds no samples"),
    "no log": ("x.json", '{"a": 1}', "is no log of Inspect"),
    "a table": ("x.csv", "id,answer\n1,2\n", "a table of predictions needs its catalogue: give --data"),
    "empty": ("x.jsonl", "", "is no log of a harness"),
    "truncated": ("x.jsonl", json.dumps(generated(0, True)) + '\n{"doc_id": 1', "line 2 is not whole JSON"),
    "no target": ("x.jsonl", '{"doc_id": 0, "filtered_resps": ["a"]}\n', "line 1 has no target"),
    "another type": ("x.jsonl", json.dumps(generated(0, True, metrics="acc")) + "\n", 'metrics is "acc"; it must be a list'),
    "repeated": ("x.jsonl", 2 * (json.dumps(generated(3, True)) + "\n"), "line 2 repeats the document 3 of line 1"),
    "no eval": ("x.eval", b"PK\x03\x04 and nothing else", "no whole archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_log_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, sentence = BAD[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        main(["--input", str(tmp_path / name), "--output", str(tmp_path / "run")])
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", [8, 93])
def test_a_corrupt_member_is_one_sentence(tmp_path: Path, method: int) -> None:
    path = write_eval(tmp_path / "x.eval", [inspect_sample(i, "C") for i in range(20)], method=method)
    data = bytearray(path.read_bytes())
    place = data.index(b"samples/7_epoch_1.json") + 40
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"samples/7_epoch_1\.json is corrupt"):
        read_log(path)


def test_flags_of_a_table_and_of_a_log_are_not_mixed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [generated(0, True)])
    with pytest.raises(UserError, match="--text is of a table"):
        imported(path, tmp_path / "run", text="resps")
    write_catalogue(tmp_path / "cat", {"test": 2}, (((40, 30),),))
    with pytest.raises(UserError, match="is the log of a harness; leave --data out"):
        imported(path, tmp_path / "run", data=tmp_path / "cat")
    with pytest.raises(UserError, match="--output is required"):
        import_run(ImportConfig(path))
