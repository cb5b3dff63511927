"""Run folders: written row by row, resumed after a kill, merged from shards, imported from elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.writer import CatalogueWriter
from eval import merge
from eval.runs.import_config import ImportConfig
from eval.runs.imported import import_run
from eval.runs.manifest import split_hash
from eval.runs.prediction import Prediction, parsed_again
from eval.runs.rescored import RescoredRun
from eval.runs.run import Run
from eval.runs.writer import RunWriter, write_baseline
from eval.score import main as score_main
from eval.shards import merge_runs
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import ParsedField
from tests.helpers.paths import ROOT
from tests.helpers.synthetic_runs import TASK, Row, answer, changed, make_rows, manifest, write_run


def resume(folder: Path, rows: list[Row]) -> Run:
    with RunWriter.open(folder, manifest()) as writer:
        for row in rows:
            if row["id"] not in writer.done:
                writer.write(Prediction.from_dict(row))
        writer.finish(seconds=1.0)
    return Run.load(folder)


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    rows = make_rows(20)
    run = write_run(tmp_path / "run", rows)
    assert run.rows == [Prediction.from_dict(row) for row in rows]
    lines = (run.path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {name: value for name, value in json.loads(json.dumps(row)).items() if value is not None} for row in rows
    ]
    assert list(json.loads(lines[0])) == ["id", "true", "predicted", "text", "token_ids", "logprobs", "top_k", "finish",
                                          "fingerprints", "seconds"]  # fmt: skip
    assert run.finished and run.manifest["rows"] == 20
    offset = list(run.stream())[7][0]
    with run.reader() as read:
        assert read(offset) == run.rows[7]


@settings(max_examples=40)
@given(data=st.data())
def test_a_run_cut_at_any_byte_resumes_to_the_same_result(tmp_path: Path, data: st.DataObject) -> None:
    rows = make_rows(12)
    whole = write_run(tmp_path / f"whole{len(list(tmp_path.iterdir()))}", rows)
    folder = tmp_path / f"cut{len(list(tmp_path.iterdir()))}"
    write_run(folder, rows, finish=False)
    path = folder / "predictions.jsonl"
    for _ in range(data.draw(st.integers(1, 3))):
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.truncate(data.draw(st.integers(0, size)))
        run = resume(folder, rows)
    assert run.content_hash() == whole.content_hash()
    assert [row.id for row in run.rows] == [row["id"] for row in rows]


def test_a_run_killed_ten_times_loses_and_repeats_no_row(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, {root!r})
        from tests.helpers.synthetic_runs import make_rows, manifest
        from eval.runs.prediction import Prediction
        from eval.runs.writer import RunWriter
        with RunWriter.open({folder!r}, manifest()) as writer:
            for row in make_rows(100):
                if row["id"] not in writer.done:
                    writer.write(Prediction.from_dict(row))
                    print(row["id"], flush=True)
                    time.sleep(0.002)
    """).format(root=str(ROOT), folder=str(tmp_path / "run"))
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        # On a busy machine a process may write all rows before the kill: the next one then has none to print.
        seen = [line.strip() for line in (process.stdout.readline() for _ in range(6)) if line]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert set(seen) <= {row.id for row in Run.load(tmp_path / "run").rows}
    rows = make_rows(100)
    assert resume(tmp_path / "run", rows).content_hash() == write_run(tmp_path / "whole", rows).content_hash()


def test_resuming_another_run_names_what_differs(tmp_path: Path) -> None:
    write_run(tmp_path / "run", make_rows(3))
    with pytest.raises(UserError, match=r"hashes\.template") as error:
        RunWriter.open(tmp_path / "run", manifest(hashes={"template": "other"}, settings={"num_crops": 16}))
    assert "settings.num_crops was 4, is 16" in str(error.value)


def test_resuming_may_change_batch_size_device_and_folders(tmp_path: Path) -> None:
    rows = make_rows(6)
    write_run(tmp_path / "run", rows[:4], finish=False)
    with RunWriter.open(tmp_path / "run", manifest(batch_size=1, device={"name": "gpu"}, catalogue="moved/here")) as writer:
        assert writer.done == {row["id"] for row in rows[:4]}


def test_two_writers_cannot_share_a_run(tmp_path: Path) -> None:
    with RunWriter.open(tmp_path / "run", manifest()), pytest.raises(UserError, match="another process"):
        RunWriter.open(tmp_path / "run", manifest())


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(5))
    lines = (run.path / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:20] + b"\n"
    (run.path / "predictions.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="line 3"):
        _ = Run.load(run.path).rows
    with pytest.raises(UserError, match="line 3"):
        RunWriter.open(run.path, manifest())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"\xef\xbb\xbf" + data, "line 1 begins with a byte order mark; save it as UTF-8 without one"),
        (lambda data: data.decode().encode("utf-16"), "begins with a byte order mark"),
        (lambda data: data + b"\n", "line 3 is blank; remove that line"),
    ],
)
def test_what_an_editor_did_to_a_file_is_named(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    run = write_run(tmp_path / "run", make_rows(2))
    path = run.path / "predictions.jsonl"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        _ = Run.load(run.path).rows
    (run.path / "manifest.json").write_bytes(b"\xef\xbb\xbf" + (run.path / "manifest.json").read_bytes())
    with pytest.raises(UserError, match=r"manifest\.json begins with a byte order mark"):
        Run.load(run.path)


def test_a_truncated_last_line_is_left_out_and_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(5), finish=False)
    path = run.path / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    run = Run.load(run.path)
    assert len(run.rows) == 4 and run.truncated


@pytest.mark.parametrize("content", ["{}", "not json", '{"schema": 99, "task": {}}', '{"schema": 1}'])
def test_a_folder_that_is_no_run_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "predictions.jsonl").write_text("")
    with pytest.raises(UserError, match="manifest"):
        Run.load(tmp_path)


def test_content_hash_ignores_order_and_times_only(tmp_path: Path) -> None:
    rows = make_rows(10)
    run = write_run(tmp_path / "a", rows)
    turned = write_run(tmp_path / "b", [{**row, "seconds": 9.0} for row in reversed(rows)])
    other = write_run(tmp_path / "c", changed(rows, lambda i, row: i == 3, lambda row: row.update(text="x")))
    assert run.content_hash() == turned.content_hash() != other.content_hash()


def test_shards_merge_to_the_run_made_in_one_piece(tmp_path: Path) -> None:
    rows = make_rows(11)
    whole = write_run(tmp_path / "whole", rows)
    for i in (1, 2, 3):
        write_run(tmp_path / f"shard{i}", rows[i - 1 :: 3], shard=[i, 3], batch_size=i, device={"name": f"machine {i}"})
    shards = [str(tmp_path / f"shard{i}") for i in (3, 1, 2)]
    assert merge.main([*shards, "--output", str(tmp_path / "merged")]) == 0
    merged = Run.load(tmp_path / "merged")
    assert merged.content_hash() == whole.content_hash()
    assert merged.manifest["shard"] is None and merged.finished and len(merged.manifest["merged"]) == 3


def test_merging_names_missing_and_unlike_shards(tmp_path: Path) -> None:
    rows = make_rows(9)
    shards = [write_run(tmp_path / f"shard{i}", rows[i - 1 :: 3], shard=[i, 3]) for i in (1, 2, 3)]
    with pytest.raises(UserError, match="shard 2/3 is missing"):
        merge_runs([shards[0], shards[2]], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not merge_runs([shards[0], shards[2]], tmp_path / "out", partial=True).finished
    other = write_run(tmp_path / "other", rows[1::3], shard=[2, 3], settings={"num_crops": 16})
    with pytest.raises(UserError, match="num_crops"):
        merge_runs([shards[0], other, shards[2]], tmp_path / "out2")
    again = write_run(tmp_path / "again", rows[0::3], shard=[2, 3])
    with pytest.raises(UserError, match="p00000"):
        merge_runs([shards[0], again, shards[2]], tmp_path / "out3")
    assert not (tmp_path / "out3").exists()


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    with CatalogueWriter(tmp_path / "catalogue", TASK, name="t", source={}, settings={}) as writer:
        for row in make_rows(6):
            writer.add("test", {"id": row["id"], **row["true"]})
    return tmp_path / "catalogue"


def test_imported_csv_with_fields_scores_like_the_run_it_came_from(tmp_path: Path, catalogue: Path) -> None:
    rows = make_rows(6)
    lines = ["sku\tname\tkind\tprice"]
    for row in rows:
        values = {name: item["value"] for name, item in row["predicted"].items()}
        lines.append(f"{row['id']}\t{values['title']}\t{values['category3_code']}\t{values['full_price']:,.2f}")
    (tmp_path / "theirs.tsv").write_text("\n".join(lines))
    fields = ("title=name", "category3_code=kind", "full_price=price")
    run = import_run(ImportConfig(tmp_path / "theirs.tsv", catalogue, tmp_path / "run", id="sku", fields=fields))
    assert [row.to_dict()["predicted"] for row in run.rows] == [row["predicted"] for row in rows]
    assert [row.true for row in run.rows] == [row["true"] for row in rows]
    assert run.finished and run.label == "theirs"


def test_imported_jsonl_with_whole_answers_is_parsed_by_the_task(tmp_path: Path, catalogue: Path) -> None:
    rows = make_rows(6)
    text = "\n".join(json.dumps({"id": row["id"], "answer": row["text"]}) for row in reversed(rows))
    (tmp_path / "theirs.jsonl").write_text(text)
    run = import_run(ImportConfig(tmp_path / "theirs.jsonl", catalogue, tmp_path / "run", text="answer"))
    assert {row.id: row.to_dict()["predicted"] for row in run.rows} == {row["id"]: row["predicted"] for row in rows}
    assert run.manifest["hashes"]["split"] == split_hash(TASK, iter([{"id": r["id"], **r["true"]} for r in rows]))


def test_imported_answers_in_json_keep_their_values_when_scored_again(tmp_path: Path, catalogue: Path) -> None:
    rows = make_rows(6)
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"id": r["id"], "answer": json.dumps(r["true"])}) for r in rows))
    run = import_run(ImportConfig(tmp_path / "p.jsonl", catalogue, tmp_path / "run", text="answer"))
    again = RescoredRun.load(run.path)
    assert [row.to_dict()["predicted"] for row in again.rows] == [row.to_dict()["predicted"] for row in run.rows]
    assert all(row.predicted["full_price"].value == row.true["full_price"] for row in again.rows)
    of_earlier_versions = [dataclasses.replace(row, text="") for row in run.rows]
    assert all(parsed_again(row, TASK) == row.predicted for row in of_earlier_versions)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "id,title\np00000,x\n", "no column 'category3_code'"),
        ("p.csv", "id,answer\nnobody,x\n", "'nobody' is no row"),
        ("p.csv", "id,answer\np00000,x\np00000,y\n", "repeats 'p00000'"),
        ("p.csv", "id,answer\np00000,x\n", "no prediction for 5 rows"),
        ("p.csv", "id,answer\np00000,x,y,z\n", "more cells"),
        ("p.jsonl", "{]\n", "line 1 is not JSON"),
        ("p.xlsx", "", "cannot be read as a workbook"),
        ("p.bin", "", "is of no known kind"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path, catalogue: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    text = None if "title" in content else "answer"
    with pytest.raises(UserError, match=message):
        import_run(ImportConfig(tmp_path / name, catalogue, tmp_path / "run", text=text))
    assert not (tmp_path / "run").exists()


def test_an_empty_or_unreadable_cell_is_a_parse_failure_not_a_guess(tmp_path: Path, catalogue: Path) -> None:
    lines = ["id,title,category3_code,full_price", "p00000,,BAGS,cheap"]
    lines += [f"p0000{i},Scarf,BAGS,12.5" for i in range(1, 6)]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    first = import_run(ImportConfig(tmp_path / "p.csv", catalogue, tmp_path / "run")).rows[0].predicted
    assert first["title"] == ParsedField(None, "missing")
    assert first["full_price"] == ParsedField(None, "malformed")


def test_scoring_parses_answers_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slip = changed(make_rows(20), lambda i, row: i < 3, lambda row: row["predicted"]["full_price"].update(value=1.0))
    write_run(tmp_path / "run", slip)
    assert score_main([str(tmp_path / "run"), "--json", "--output", str(tmp_path / "again")]) == 0
    assert json.loads(capsys.readouterr().out)["read_differently"] == 3
    assert Run.load(tmp_path / "again").content_hash() == write_run(tmp_path / "clean", make_rows(20)).content_hash()


def test_a_baseline_is_one_small_file_that_loads_as_a_run(tmp_path: Path) -> None:
    rows = make_rows(20)
    for row in rows:
        row["top_k"] = [[[token + i, -1.5 * (i + 1)] for i in range(5)] for token in row["token_ids"]]
    run = write_run(tmp_path / "run", rows)
    write_baseline(run, tmp_path / "baseline.jsonl")
    again = Run.load(tmp_path / "baseline.jsonl")
    assert [row.predicted for row in again.rows] == [row.predicted for row in run.rows]
    assert again.manifest == run.manifest
    assert (tmp_path / "baseline.jsonl").stat().st_size < (run.path / "predictions.jsonl").stat().st_size / 1.5
    assert {len(step) for row in again.rows for step in row.top_k} == {2}  # the chosen token and its runner-up
    offset = list(again.stream())[4][0]
    with again.reader() as read:
        assert read(offset).id == run.rows[4].id


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": {"title": "a scarf"}},
        {"predicted": {"title": {"value": "a scarf", "status": "fine"}}},
        {"true": 5},
        {"top_k": [[1, -0.5]]},
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    run = write_run(tmp_path / "run", make_rows(3))
    lines = [json.dumps({**row, **change}) if i == 1 else json.dumps(row) for i, row in enumerate(make_rows(3))]
    (run.path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl line 2 is no prediction"):
        _ = run.rows


def test_reading_rows_leaves_no_file_open(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(5))

    def opened() -> int:
        return len([file for file in psutil.Process().open_files() if str(tmp_path) in file.path])

    first = next(iter(run.stream()))[0]
    assert opened() == 0
    with run.reader() as read:
        read(first)
        assert opened() == 1
    assert opened() == 0


def test_a_run_as_a_data_frame_has_one_row_a_prediction(tmp_path: Path) -> None:
    rows = make_rows(30)
    answer(rows[4], "no idea")
    rows[5]["true"]["full_price"] = None
    frame = write_run(tmp_path / "run", rows).to_pandas()
    assert list(frame.columns) == [
        "id",
        *(f"{kind}_{name}" for name in ("title", "category3_code", "full_price") for kind in ("true", "predicted", "status")),
        "text", "finish", "seconds", "image",
    ]  # fmt: skip
    assert list(frame["id"]) == [row["id"] for row in rows]
    assert frame["true_full_price"].dtype == frame["predicted_full_price"].dtype == "float64"
    assert frame["true_full_price"].isna().tolist() == [i == 5 for i in range(30)]
    assert frame.loc[4, "status_title"] == "missing" and frame["predicted_title"].isna().sum() == 1
    assert frame.loc[7, "predicted_category3_code"] == rows[7]["predicted"]["category3_code"]["value"]


def test_scoring_writes_the_rows_as_csv(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changed(make_rows(5), lambda i, row: i == 0, lambda row: answer(row, 'a "b", c')))
    assert score_main([str(run.path), "--json", "--csv", str(tmp_path / "rows.csv")]) == 0
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 5 and read[0]["text"] == 'a "b", c' and read[0]["status_full_price"] == "missing"
    assert float(read[1]["predicted_full_price"]) == run.rows[1].predicted["full_price"].value


def test_no_cell_of_the_csv_is_run_by_a_spreadsheet(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changed(make_rows(2), lambda i, row: i == 0, lambda row: answer(row, "=1+1")))
    assert score_main([str(run.path), "--json", "--csv", str(tmp_path / "rows.csv")]) == 0
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        assert [row["text"][0] for row in csv.DictReader(file)] == ["'", "P"]


@pytest.mark.parametrize("name", ["predictions.jsonl", "manifest.json", "trace-b.jsonl"])
@pytest.mark.parametrize("flag", ["--baseline", "--csv"])
def test_scoring_never_writes_over_a_file_of_a_run(tmp_path: Path, flag: str, name: str) -> None:
    run = write_run(tmp_path / "run", make_rows(2))
    with pytest.raises(UserError, match="a file of the run or catalogue"):
        score_main([str(run.path), flag, str(run.path / name)])
    with pytest.raises(UserError, match="a file that --output writes"):
        score_main([str(run.path), "--output", str(tmp_path / "o"), flag, str(tmp_path / "o" / name)])
    assert not (tmp_path / "o").exists()


def test_outputs_of_a_scoring_have_places_of_their_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", make_rows(2))
    write_baseline(run, tmp_path / "b.jsonl")
    with pytest.raises(UserError, match=r"--baseline is .*b\.jsonl, and so is RUN"):
        score_main([str(tmp_path / "b.jsonl"), "--baseline", str(tmp_path / "b.jsonl")])
    with pytest.raises(UserError, match=r"--csv is .*, and so is --baseline"):
        score_main([str(run.path), "--baseline", str(tmp_path / "x"), "--csv", str(tmp_path / "x")])


def test_a_repeated_row_is_not_written_on(tmp_path: Path) -> None:
    rows = make_rows(3)
    run = write_run(tmp_path / "run", [*rows, rows[0]], raw=True)
    for flag in ("--output", "--baseline"):
        with pytest.raises(UserError, match=r"predictions\.jsonl line 4 repeats the row 'p00000' of line 1"):
            score_main([str(run.path), flag, str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()


def test_missing_shards_of_a_huge_number_are_counted(tmp_path: Path) -> None:
    shard = write_run(tmp_path / "s", make_rows(2), shard=[2, 10**15])
    with pytest.raises(UserError, match=r"shard 1/10+ is missing; .*; 999999999999994 more are missing"):
        merge_runs([shard], tmp_path / "o")


def test_a_run_leaves_no_file_open(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", make_rows(5)).path
    write_baseline(Run.load(folder), tmp_path / "baseline.jsonl")
    for path in (folder, tmp_path / "baseline.jsonl"):
        run = Run.load(path)
        assert len(run.rows) == 5 and len(list(run.distinct())) == 5
        offset, first = next(run.stream())
        with run.reader() as read:
            assert read(offset) == first
    with pytest.raises(UserError):
        Run.load(folder / "predictions.jsonl")
    assert not [file.path for file in psutil.Process().open_files() if str(tmp_path) in file.path]
