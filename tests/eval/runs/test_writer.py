"""A run's folder: killed at any instant, held by one process, refused where it is something else's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas  # noqa: F401 (before the forks, as all that a command imports once it has read its flags)
import pytest

from data.writer import CatalogueWriter
from eval import import_run, merge, score, shards  # noqa: F401
from eval.compare import score_run  # noqa: F401
from eval.report import terminal  # noqa: F401
from eval.runs.prediction import Prediction
from eval.runs.rescored import RescoredRun, write_scored
from eval.runs.run import Run
from eval.runs.writer import RunWriter
from mlx_phi3v.errors import UserError
from tests.helpers.kill_points import contents, kill_everywhere
from tests.helpers.paths import ROOT
from tests.helpers.synthetic_runs import TASK, make_rows, manifest, write_run

# --- what the killed processes run; each gets the folder that `prepare` made


def do_predict(folder: Path) -> None:
    """As eval.predict, without a model: rows are written as their answers end."""
    rows = make_rows(3)
    with RunWriter.open(folder / "o", manifest(), ids=[row["id"] for row in rows]) as writer:
        for row in (rows[1], rows[2], rows[0]):
            if row["id"] not in writer.done:
                writer.write(Prediction.from_dict(row))
        writer.finish(seconds=1.0)


def do_score(folder: Path) -> None:
    """A score with every output that it has, two of them in the folder of the third."""
    words = ["--output", "o", "--baseline", "o/b.jsonl", "--csv", "o/rows.csv"]
    score.main([str(folder / "a"), "--resamples", "10", *(str(folder / w) if w[0] == "o" else w for w in words)])


def do_merge(folder: Path) -> None:
    """A merge of two shards."""
    merge.main([str(folder / "s1"), str(folder / "s2"), "--output", str(folder / "o")])


def do_import(folder: Path) -> None:
    """An import of whole answers."""
    words = ["--input", "p.jsonl", "--data", "c", "--output", "o"]
    import_run.main([*(str(folder / w) if w[0] != "-" else w for w in words), "--text", "text"])


COMMANDS = {"predict": do_predict, "score": do_score, "merge": do_merge, "import": do_import}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with a run, two shards, a catalogue and a table."""
    folder, rows = tmp_path / "prepared", make_rows(6)
    write_run(folder / "a", rows)
    for i in (1, 2):
        write_run(folder / f"s{i}", rows[i - 1 :: 2], shard=[i, 2])
    with CatalogueWriter(folder / "c", TASK, name="t", source={}, settings={}) as writer:
        for row in rows:
            writer.add("test", {"id": row["id"], **row["true"]})
    (folder / "p.jsonl").write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in rows))
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
# Not the import: pyarrow's threads do not live on in a forked process. It is written through the same RunWriter as a merge.
@pytest.mark.parametrize("name", ["predict", "score", "merge"])
def test_a_command_killed_before_any_write_ends_as_if_unbroken_when_given_again(name: str, prepared: Path) -> None:
    kills, wrong = kill_everywhere(f"{__name__}:{COMMANDS[name].__name__}", prepared)
    assert kills >= 6 and not wrong


def test_a_whole_run_has_its_rows_in_the_order_of_the_split(tmp_path: Path) -> None:
    """Written in any order, in one session or in two; an unfinished run has them as they were written."""
    rows = make_rows(6)
    ids, path = [row["id"] for row in rows], tmp_path / "o" / "predictions.jsonl"

    def written(order: list[int], finish: bool) -> list[str]:
        with RunWriter.open(tmp_path / "o", manifest(), ids=ids) as writer:
            for number in order:
                writer.write(Prediction.from_dict(rows[number]))
            if finish:
                writer.finish(seconds=1.0)
        return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]

    assert written([4, 0, 2], finish=False) == [ids[4], ids[0], ids[2]]
    assert written([5, 1, 3], finish=True) == ids
    in_order = write_run(tmp_path / "ordered", rows)
    assert path.read_bytes() == (in_order.path / "predictions.jsonl").read_bytes()
    assert written([], finish=True) == ids  # a finished run once more


@pytest.mark.parametrize("name", ["score", "merge", "import"])
def test_the_same_command_again_finds_its_output(name: str, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COMMANDS[name](prepared)
    before = contents(prepared)
    COMMANDS[name](prepared)
    assert "is there already, made from the same inputs" in capsys.readouterr().err
    assert contents(prepared) == before


def test_an_output_of_other_inputs_is_refused(prepared: Path) -> None:
    do_score(prepared)
    do_before = contents(prepared / "o")
    with open(prepared / "a" / "predictions.jsonl", "r+b") as file:
        file.truncate(sum(map(len, file.readlines()[:3])))
    with pytest.raises(UserError, match="exists and is not empty"):
        do_score(prepared)
    assert contents(prepared / "o") == do_before


def test_a_scored_unfinished_run_stays_unfinished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", make_rows(3), finish=False)
    write_scored(RescoredRun.load(run.path), tmp_path / "o")
    assert not Run.load(tmp_path / "o").finished


@pytest.mark.parametrize("rows", [0, 4], ids=["empty", "with-rows"])
def test_a_kill_between_manifest_and_rows_leaves_no_trap(tmp_path: Path, rows: int) -> None:
    run = write_run(tmp_path / "o", make_rows(rows), finish=False)
    if not rows:
        (run.path / "predictions.jsonl").unlink()
    do_predict_rows = make_rows(6)
    with RunWriter.open(run.path, manifest()) as writer:
        assert len(writer.done) == rows
        for row in do_predict_rows[rows:]:
            writer.write(Prediction.from_dict(row))
        writer.finish(seconds=1.0)
    assert Run.load(run.path).content_hash() == write_run(tmp_path / "whole", do_predict_rows).content_hash()


def test_the_rows_file_alone_of_an_earlier_version_is_begun(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "predictions.jsonl").touch()
    do_predict(tmp_path)
    assert Run.load(tmp_path / "o").finished


def test_a_run_without_a_row_goes_on_with_other_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "o", [], finish=False, settings={"num_crops": 999})
    do_predict(tmp_path)
    assert Run.load(tmp_path / "o").manifest["settings"]["num_crops"] == 4


def test_a_mistake_before_the_first_row_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too many crops"), RunWriter.open(tmp_path / "o", manifest()):
        raise UserError("too many crops")
    assert not (tmp_path / "o").exists()


def test_a_mistake_after_a_row_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a broken photo"), RunWriter.open(tmp_path / "o", manifest()) as writer:
        writer.write(Prediction.from_dict(make_rows(1)[0]))
        raise UserError("a broken photo")
    assert len(Run.load(tmp_path / "o").rows) == 1


FOREIGN = {
    "training run": {"settings.json": "{}", "log.jsonl": "{}\n", "last/state.json": "{}"},
    "photos": {"a.jpg": "x"},
    "a manifest of something else": {"manifest.json": '{"name": "app"}', "predictions.jsonl": "1\n"},
    "rows without their manifest": {"predictions.jsonl": "{}\n"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    for file, text in FOREIGN[name].items():
        (tmp_path / "o" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "o" / file).write_text(text)
    before = [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "o").rglob("*"))]
    with pytest.raises(UserError, match=r"holds no run|no run manifest"):
        do_predict(tmp_path)
    assert [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "o").rglob("*"))] == before


def test_a_resumed_row_that_the_run_lacks_is_named(tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[1]["id"] = "zz0"
    write_run(tmp_path / "o", rows, finish=False)
    with pytest.raises(UserError, match=r"predictions\.jsonl line 2 is the row 'zz0'"):
        do_predict(tmp_path)


def test_an_answer_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    row = Prediction("a", {}, {}, token_ids=[1], logprobs=[float("nan")])
    with RunWriter.open(tmp_path / "o", manifest()) as writer, pytest.raises(UserError, match=r"row 'a' has .* not finite"):
        writer.write(row)


@contextmanager
def another_process(script: str) -> Iterator[None]:
    """A Python process that runs `script` until it prints, and ends when the block does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", f"{script}\n    print('ready', flush=True)\n    input()"]
    process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.communicate("\n", timeout=300)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_another_process_writes_is_refused(name: str, prepared: Path) -> None:
    how = "open" if name == "predict" else "create"
    script = (
        "from eval.runs.writer import RunWriter\nfrom tests.helpers.synthetic_runs import manifest\n"
        f"with RunWriter.{how}({str(prepared / 'o')!r}, manifest()):"
    )
    with another_process(script):
        before = contents(prepared)
        with pytest.raises(UserError, match=re.escape(f"another process is writing {prepared / 'o'}")):
            COMMANDS[name](prepared)
        assert contents(prepared) == before


def test_two_processes_that_start_at_once_leave_one_whole_output(prepared: Path) -> None:
    words = [sys.executable, "-m", "eval.merge", str(prepared / "s1"), str(prepared / "s2"), "--output", str(prepared / "o")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert 0 in [process.returncode for process in started]
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 0 or (error.count("\n") == 1 and error.startswith("error: "))
    assert len(Run.load(prepared / "o").rows) == 6
    assert not [path for path in prepared.iterdir() if path.name.startswith(".")]
