"""Every document of a run that is not what it should be gets one sentence that names file, line and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.runs.run import Run
from eval.runs.scored_tokens import read_trace, trace_path
from eval.runs.writer import write_baseline
from mlx_phi3v.errors import UserError
from tests.helpers.synthetic_runs import Row, make_rows, write_run

DEEP = "[" * 100_000


def rewrite(path: Path, number: int, change: Callable[[Row], Any]) -> None:
    """Change one line of a JSONL file: `change` gives a new line as text, or edits the value in place."""
    lines = path.read_text(encoding="utf-8").splitlines()
    value = json.loads(lines[number - 1])
    made = change(value)
    lines[number - 1] = made if isinstance(made, str) else json.dumps(value)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def put(*keys: Any, value: Any) -> Callable[[Row], None]:
    """A change that sets a value at any depth."""

    def change(row: Any) -> None:
        for key in keys[:-1]:
            row = row[key]
        row[keys[-1]] = value

    return change


def text(old: str, new: str) -> Callable[[Row], str]:
    """A change of the line's text."""
    return lambda row: json.dumps(row).replace(old, new, 1)


LINES: list[tuple[Callable[[Row], Any], str]] = [
    (put("true", value=None), "true is null; it must be an object"),
    (put("true", "title", value=[1]), r"true\.title is \[1\]"),
    (put("true", "title", value=5), r"true\.title is 5; it must be text"),
    (put("predicted", "title", "value", value=5), r"predicted\.title\.value is 5; it must be text"),
    (put("true", "full_price", value=True), r"true\.full_price is true"),
    (put("true", "full_price", value="cheap"), r'true\.full_price is "cheap"; it must be a number'),
    (put("true", "full_price", value=10**99 * 100), "full_price is 1000"),
    (put("true", "full_price", value=1e200), r"true\.full_price is 1e\+200; it must be a number of at most"),
    (put("predicted", value=[]), r"predicted is \[\]"),
    (put("predicted", "category3_code", value="x"), r'predicted\.category3_code is "x"'),
    (put("predicted", "full_price", "status", value=None), r"predicted\.full_price\.status is null"),
    (put("predicted", "full_price", "status", value="fine"), r'predicted\.full_price\.status is "fine"'),
    (put("predicted", "full_price", value={"value": {}}), r"predicted\.full_price\.value is \{\}"),
    (put("id", value=None), "id is null"),
    (lambda row: row.pop("id") and None, "it has no id; it must be there"),
    (put("text", value=5), "text is 5; it must be text"),
    (put("token_ids", value="abc"), 'token_ids is "abc"'),
    (put("token_ids", value=None), "token_ids is null"),
    (put("token_ids", 0, value=[1]), r"token_ids\[0\] is \[1\]"),
    (put("token_ids", 0, value=1.5), r"token_ids\[0\] is 1\.5"),
    (put("token_ids", 0, value=-1), r"token_ids\[0\] is -1"),
    (put("token_ids", 0, value=50_000), "the token id 50000 is none of the 40000"),
    (put("top_k", 0, value=[[50_000, -1.0]]), "the token id 50000 is none of the 40000"),
    (put("top_k", 0, value=[[1, -1.0, 2]]), r"top_k\[0\]\[0\] is \[1, -1\.0, 2\]"),
    (put("top_k", value=[[]]), "top_k has 1 items and token_ids"),
    (put("logprobs", value=[-0.1]), "logprobs has 1 items and token_ids"),
    (put("logprobs", 0, value="x"), r'logprobs\[0\] is "x"'),
    (put("logprobs", 0, value=1e300), r"logprobs\[0\] is 1e\+300"),
    (put("logprobs", 0, value=float("nan")), r"logprobs\[0\] is NaN"),
    (put("fingerprints", value=[1]), r"fingerprints is \[1\]"),
    (put("fingerprints", "file", value=1), r"fingerprints\.file is 1"),
    (put("seconds", value="x"), 'seconds is "x"'),
    (put("seconds", value=-1), "seconds is -1"),
    (put("image", value=["a"]), r'image is \["a"\]'),
    (put("product", value=7), "product is 7"),
    (put("text", value="abc\ud83d"), "text is .* half a surrogate pair"),
    (text('"id": ', '"id": "twice", "id": '), "id is given twice"),
    (text('"id": ', '"id"  : "twice", "id": '), "id is given twice"),
    (text('"title": ', '"title": "a:b", "title": '), r"true\.title is given twice"),
    (text('"seconds": 0.05', '"seconds": 1e999'), "seconds is infinite"),
    (text('"seconds": 0.05', f'"seconds": {"9" * 5000}'), "5000 digits"),
    (text('"seconds": 0.05', f'"newer": {DEEP}'), "nested too deeply"),
    (lambda row: json.dumps(row)[:50], "not whole JSON"),
    (lambda row: "[]", r"it is \[\]; it must be an object"),
    (lambda row: "", "is blank; remove that line"),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of three rows, its model's vocabulary known."""
    return write_run(tmp_path / "run", make_rows(3), model_config={"vocab_size": 40_000})


@pytest.mark.parametrize(("change", "sentence"), LINES)
def test_a_line_that_is_no_prediction_is_named(run: Run, change: Callable[[Row], Any], sentence: str) -> None:
    rewrite(run.path / "predictions.jsonl", 2, change)
    with pytest.raises(UserError, match=rf"(?s)predictions\.jsonl line 2[ :].*{sentence}") as error:
        _ = Run.load(run.path).rows
    assert len(str(error.value).replace(str(run.path), "")) < 400


MANIFESTS: list[tuple[Callable[[Row], Any], str]] = [
    (put("task", value=None), "task is null"),
    (put("task", "template", value="{title"), "a brace that is not closed"),
    (put("task", "fields", 0, "kind", value=[]), "is of kind"),
    (put("settings", value="x"), 'settings is "x"'),
    (put("settings", "dtype", value=[1]), r"settings\.dtype is \[1\]"),
    (put("hashes", value=[1]), r"hashes is \[1\]"),
    (put("hashes", "base", value=7), r"hashes\.base is 7"),
    (put("device", value="cpu"), 'device is "cpu"'),
    (put("shard", value=[1, 2, 3]), r"shard is \[1, 2, 3\]"),
    (put("shard", value=[0, 2]), r"shard is \[0, 2\]"),
    (put("shard", value="1/2"), "shard is"),
    (put("seconds", value=[]), r"seconds is \[\]"),
    (put("label", value={}), r"label is \{\}"),
    (put("limit", value=-5), "limit is -5"),
    (put("model_config", "vocab_size", value="many"), r"model_config\.vocab_size is"),
    (put("schema", value=True), "has run schema true"),
    (text('"rows": 3', '"rows": 3, "rows": 4'), "rows is given twice"),
    (text('"rows": 3', '"rows": NaN'), "rows is NaN"),
]


@pytest.mark.parametrize(("change", "sentence"), MANIFESTS)
def test_a_manifest_of_another_shape_is_named(run: Run, change: Callable[[Row], Any], sentence: str) -> None:
    path = run.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    rewrite(path, 1, change)
    with pytest.raises(UserError, match=rf"manifest\.json.*{sentence}"):
        Run.load(run.path)
    write_baseline(run, run.path.parent / "b.jsonl")
    rewrite(run.path.parent / "b.jsonl", 1, lambda value: '{"manifest": ' + path.read_text().strip() + "}")
    with pytest.raises(UserError, match=rf"b\.jsonl line 1.*{sentence}"):
        Run.load(run.path.parent / "b.jsonl")


@pytest.mark.parametrize("line", ["", "{}", DEEP, '{"manifest": 5}', '{"manifest": {}}', "\x00\xff"])
def test_a_file_that_is_no_baseline_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "b.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"b\.jsonl"):
        Run.load(tmp_path / "b.jsonl")


TRACES: list[tuple[Callable[[Row], Any], str]] = [
    (put("logprobs", value=[0.0] * 3), "logprobs has 3 items"),
    (put("logprobs", value=[]), "logprobs has 0 items"),
    (put("top_k", value=[5]), r"top_k\[0\] is 5"),
    (put("token_ids", value=None), "token_ids is null"),
    (put("id", value="p00000"), "'p00000' is in line 1 already"),
    (text('"id": ', '"id": "a", "id": '), "id is given twice"),
    (lambda row: "[]", r"it is \[\]"),
]


@pytest.mark.parametrize(("change", "sentence"), TRACES)
def test_a_line_that_is_no_trace_row_is_named(run: Run, change: Callable[[Row], Any], sentence: str) -> None:
    path = trace_path(run, run)
    rows = [{"id": row.id, "token_ids": row.token_ids, "logprobs": row.logprobs, "top_k": []} for row in run.rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(list(read_trace(run, run))) == 3
    rewrite(path, 2, change)
    with pytest.raises(UserError, match=rf"trace-run\.jsonl line 2[ :].*{sentence}"):
        list(read_trace(run, run))


def test_keys_of_a_later_version_are_read_over(run: Run) -> None:
    rows = run.rows
    for number in (1, 2, 3):
        change = put("newer", value={"a": [1, {"b": "c: d"}]})
        rewrite(run.path / "predictions.jsonl", number, change)
    assert Run.load(run.path).rows == rows


def test_colons_and_escapes_in_texts_are_no_keys(tmp_path: Path) -> None:
    rows = make_rows(2)
    rows[0]["true"]["title"] = 'a": "b\\": c\\\\'
    rows[1]["id"] = '":": '
    run = write_run(tmp_path / "run", rows)
    (run.path / "predictions.jsonl").write_text(
        (run.path / "predictions.jsonl").read_text().replace("b\\\\", "b\\u005c"), encoding="utf-8"
    )
    assert [row.true["title"] for row in run.rows] == [row["true"]["title"] for row in rows]
    assert run.rows[1].id == '":": '
