"""A training that is reported: each library's own reader gives the figures of log.jsonl, once, in one run, resumed or not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mlx_phi3v.catalogue import Catalogue
from mlx_phi3v.loggers.choice import open_logger
from mlx_phi3v.loggers.logger import RunInfo, Verdict
from mlx_phi3v.loggers.record import read_record
from mlx_phi3v.loggers.wandb_logger import held_offline
from mlx_phi3v.training import loop, report_channel, reporting, setup
from mlx_phi3v.training.loop import train
from mlx_phi3v.training.report_channel import figures
from mlx_phi3v.training.train_config import TrainConfig
from tests.helpers.loggers import SECRET, FakeLogger
from tests.mlx_phi3v.training.test_train import log

ALL = ("wandb", "tensorboard", "trackio")
STEPS, KILLED_AFTER = 6, 5


def settings(model: Path, data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Six steps with a validation and a checkpoint after each second one, and dropout, which draws random numbers."""
    config = TrainConfig(
        data=data, output=output, model=str(model), backend="mlx", dtype="float32", max_steps=STEPS, batch_size=3,
        learning_rate=5e-3, warmup_steps=2, r=2, lora_dropout=0.1, num_crops=1, steps_per_report=1, steps_per_eval=2,
        val_rows=3, save_every=2, report_rows=2,
    )  # fmt: skip
    return replace(config, **changes)


class Killed(BaseException):
    """Ends a training between two steps."""


def train_killed(config: TrainConfig, steps: int) -> None:
    """Train, and end after so many steps of this process, of which those since the last checkpoint are lost."""
    take, taken = loop.Trainer.step, 0

    def step(self: loop.Trainer, source: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise Killed
        return take(self, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "step", step)
        with pytest.raises(Killed):
            train(config)


VERDICT = Verdict("torch-and-mlx", "EQUIVALENT", "EQUIVALENT: 2 gates", {"gate/full_price/within_10/low": -0.01})


def add_verdict(folder: Path, verdict: Verdict) -> None:
    """What `eval.compare --report-run` does."""
    record = read_record(folder)
    assert record is not None
    for name, entry in record.loggers.items():
        run = RunInfo(record.id, entry.project, entry.name, folder, {}, True, entry.step, goes_on=False)
        logger = open_logger(name, run)
        logger.verdict(replace(verdict, page=folder.parent / "page.html"))
        logger.close("finished")


@dataclass(frozen=True)
class Runs:
    """A training that was reported everywhere, killed after step 5 and resumed from step 4; and the same unreported."""

    reported: Path
    plain: Path
    folder: Path
    printed: str  # on stdout, where --json has its lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, small_catalogue: Path) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MODE": "offline", "API_KEY": SECRET}.items():
            patch.setenv(f"WANDB_{name}", value)
        for name in ("CACHE", "DATA", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder / "wandb" / name))
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))  # read when trackio is imported
        import wandb

        config = settings(
            checkpoint, small_catalogue, folder / "run", report_to=ALL, project="shop", report_checkpoints="checkpoint"
        )
        (folder / "page.html").write_text("<p>the report</p>")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            train_killed(config, KILLED_AFTER)
            train(replace(config, resume=True))
            add_verdict(folder / "run", VERDICT)
            wandb.teardown()
        train(settings(checkpoint, small_catalogue, folder / "plain"))
        yield Runs(folder / "run", folder / "plain", folder, printed.getvalue())


@pytest.fixture(scope="module")
def wandb_log(runs: Runs) -> list[dict[str, Any]]:
    """The records of the offline runs by W&B's own reader, in the order of the processes that wrote them."""
    found = []
    for folder in sorted((runs.reported / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        found += [json.loads(line) for line in out.splitlines()]
    return found


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


@pytest.fixture(scope="module")
def trackio_log(runs: Runs) -> list[dict[str, Any]]:
    """What trackio's own storage gives for the run's id."""
    from trackio.sqlite_storage import SQLiteStorage

    found: list[dict[str, Any]] = SQLiteStorage.get_logs("shop", run_id=run_id(runs))
    return found


@pytest.fixture(scope="module")
def events(runs: Runs) -> Any:
    """TensorBoard's own reader of the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(runs.reported / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    found.Reload()
    return found


def run_id(runs: Runs) -> str:
    record = read_record(runs.reported)
    assert record is not None and record.loggers.keys() == set(ALL)
    return record.id


def expected(runs: Runs, shown: Mapping[str, float], line: int) -> dict[str, float]:
    """The figures of a line of log.jsonl. Of the step that was lost and taken again, clocks and memory are the first's."""
    ours = figures(log(runs.reported)[line])
    if line + 1 == KILLED_AFTER:
        ours |= {name: shown[name] for name in ("train/rows_per_second", "train/data_wait", "train/peak_memory_gb")}
    return ours


def test_wandb_shows_the_log_once_and_in_one_run(runs: Runs, wandb_log: list[dict[str, Any]]) -> None:
    opened = of_kind(wandb_log, "run")
    assert [(run["run_id"], run["project"], run["display_name"]) for run in opened] == [(run_id(runs), "shop", "run")] * 3
    assert opened[0]["config"]["update"]["learning_rate"] == 5e-3
    history = [record["item"] for record in of_kind(wandb_log, "history")]
    assert [line["_step"] for line in history] == [1, 2, 3, 4, 5, 6]
    for number, line in enumerate(history):
        ours = expected(runs, line, number)
        assert {name: line[name] for name in ours} == ours and line["train/tokens_per_second"] > 0


def test_tensorboard_shows_the_log_once(runs: Runs, events: Any) -> None:
    lines = log(runs.reported)
    for name in figures(lines[1]):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        # The step of the killed process is dropped for the one that was taken again, so clocks agree too.
        wanted = [(line["step"], figures(line)[name]) for line in lines if name in figures(line)]
        assert shown == [(step, float(np.float32(value))) for step, value in wanted], name  # what an event file holds


def test_trackio_shows_the_log_once_and_in_one_run(runs: Runs, trackio_log: list[dict[str, Any]]) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    assert [(run["id"], run["name"]) for run in SQLiteStorage.get_run_records("shop")] == [(run_id(runs), "run")]
    config = SQLiteStorage.get_run_config("shop", "run")
    assert config is not None and config["learning_rate"] == 5e-3
    shown = [line for line in trackio_log if "train/loss" in line]
    assert [line["step"] for line in shown] == [1, 2, 3, 4, 5, 6]
    for number, line in enumerate(shown):
        ours = expected(runs, line, number)
        assert {name: line[name] for name in ours} == ours


def test_the_answers_are_shown_with_photos_beside_the_truth(
    runs: Runs, small_catalogue: Path, events: Any, trackio_log: list[dict[str, Any]], wandb_log: list[dict[str, Any]]
) -> None:
    catalogue = Catalogue(small_catalogue)
    rows = catalogue.split("validation")[:2]
    truths = [catalogue.task.answer(row) for row in rows]
    sizes = []
    for row in rows:
        photo = Image.open(row["images"][0])
        photo.thumbnail((336, 336))
        sizes.append(photo.size)
    tables = {line["step"]: line["validation/answers"]["_value"] for line in trackio_log if "validation/answers" in line}
    assert sorted(tables) == [2, 4, 6]
    media = runs.folder / "trackio" / "media"
    for table in tables.values():
        assert [line["row"] for line in table] == [row["id"] for row in rows]
        assert [line["truth"] for line in table] == truths
        assert [Image.open(media / line["photo"]["file_path"]).size for line in table] == sizes
        assert [line["full_price true"] for line in table] == [row["full_price"] for row in rows]
    last = [line["answer"] for line in tables[6]]

    (text,) = [event for event in events.Tensors("validation/answers") if event.step == 6]
    assert all(row["id"] in text.tensor_proto.string_val[0].decode() for row in rows)
    assert events.Tags()["images"] == ["validation/answer 00", "validation/answer 01"]
    for number, (width, height) in enumerate(sizes):
        shown = events.Images(f"validation/answer {number:02d}")
        assert [image.step for image in shown] == [2, 4, 6]
        picture = Image.open(io.BytesIO(shown[-1].encoded_image_string))
        assert picture.width >= width and picture.height > height  # the text is below

    files = sorted((runs.reported / "wandb").rglob("answers_6_*.table.json"))
    (wandb_table,) = [json.loads(path.read_text()) for path in files]
    cells = [dict(zip(wandb_table["columns"], line)) for line in wandb_table["data"]]
    assert [(cell["row"], cell["answer"], cell["truth"]) for cell in cells] == [
        (row["id"], answer, truth) for row, answer, truth in zip(rows, last, truths)
    ]
    stored = [
        entry
        for artifact in of_kind(wandb_log, "artifact")
        for entry in artifact["manifest"]["contents"]
        if artifact["type"] == "run_table" and entry["path"].endswith(".png")
    ]
    assert {Image.open(entry["local_path"]).size for entry in stored} == set(sizes)


def test_checkpoints_are_artifacts_where_they_are_asked_for(runs: Runs, wandb_log: list[dict[str, Any]]) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    best = json.loads((runs.reported / "best" / "state.json").read_text())["best_step"]
    adapter = (runs.reported / "best" / "adapter_model.safetensors").read_bytes()
    found = [artifact for artifact in of_kind(wandb_log, "artifact") if artifact["name"] == "run-adapter"]
    assert [f"step-{step}" in artifact["aliases"] for step, artifact in zip((2, 4, 6), found)] == [True] * 3
    (of_best,) = [artifact for artifact in found if f"step-{best}" in artifact["aliases"]]
    files = {entry["path"]: entry["local_path"] for entry in of_best["manifest"]["contents"]}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "task.json", "state.json"}
    assert Path(files["adapter_model.safetensors"]).read_bytes() == adapter
    (stored,) = [artifact for artifact in SQLiteStorage.list_artifacts("shop") if artifact["name"] == "run-adapter"]
    blobs = (runs.folder / "trackio" / "artifacts").rglob(hashlib.sha256(adapter).hexdigest())
    assert len(stored["versions"]) == 3 and next(blobs).read_bytes() == adapter
    assert not [path for path in runs.reported.iterdir() if path.name.startswith(".")]


def test_the_verdict_is_added_to_the_same_run(
    runs: Runs, events: Any, trackio_log: list[dict[str, Any]], wandb_log: list[dict[str, Any]]
) -> None:
    name, (measure, value) = f"verdict/{VERDICT.name}", next(iter(VERDICT.measures.items()))
    summary: dict[str, Any] = {}
    for record in of_kind(wandb_log, "summary"):
        summary |= record["update"]
    assert summary[name] == "EQUIVALENT" and summary[f"{name}/{measure}"] == value
    (artifact,) = [item for item in of_kind(wandb_log, "artifact") if item["name"] == "run-verdict"]
    assert {entry["path"] for entry in artifact["manifest"]["contents"]} == {"verdict.txt", "report.html"}

    assert [(event.step, event.value) for event in events.Scalars(f"{name}/{measure}")] == [(6, float(np.float32(value)))]
    (text,) = events.Tensors(name)
    assert "**EQUIVALENT**" in text.tensor_proto.string_val[0].decode()

    (line,) = [line for line in trackio_log if name in line]
    assert line["step"] == 6 and line[f"{name}/{measure}"] == value and "EQUIVALENT" in line[name]["_value"]


def same_numbers(ours: Path, theirs: Path) -> None:
    """Adapter, moments and log are the same, bit for bit, but for clocks and memory; log.jsonl has the same keys."""
    for which in ("last", "best"):
        for file in ("adapter_model.safetensors", "optimizer.safetensors"):
            mine, other = (load_file(folder / which / file) for folder in (ours, theirs))
            assert {name: value.tobytes() for name, value in mine.items()} == {
                name: value.tobytes() for name, value in other.items()
            }, f"{which} {file}"
    lines = log(ours), log(theirs)
    assert [list(line) for line in lines[0]] == [list(line) for line in lines[1]]
    for name in ("step", "loss", "grad_norm", "learning_rate", "answer_tokens", "padding", "val_loss"):
        assert [line.get(name) for line in lines[0]] == [line.get(name) for line in lines[1]], name


def test_reports_change_no_number_of_a_training(runs: Runs) -> None:
    assert {"report.json", "tensorboard", "wandb"} <= {path.name for path in runs.reported.iterdir()}
    assert not {"report.json", "tensorboard", "wandb"} & {path.name for path in runs.plain.iterdir()}
    same_numbers(runs.reported, runs.plain)


def test_the_libraries_print_nothing_where_json_has_its_lines(runs: Runs) -> None:
    assert runs.printed == ""


def test_no_key_is_written_anywhere(runs: Runs) -> None:
    files = [path for path in runs.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_loggers_that_fail_or_hang_neither_stop_nor_change_a_training(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, small_catalogue: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forever = threading.Event()
    fakes = {
        "wandb": FakeLogger(raises="open"),
        "tensorboard": FakeLogger(hangs="scalars", forever=forever),
        "trackio": FakeLogger(raises="answers"),
    }
    monkeypatch.setattr(report_channel, "open_logger", lambda name, run: fakes[name].opened(run))
    monkeypatch.setattr(reporting, "UPLOAD_SECONDS", 3.0)  # waited out for the one that hangs; enough for the others
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(settings(checkpoint, small_catalogue, tmp_path / "run", report_to=ALL, report_checkpoints="checkpoint"))
    forever.set()
    same_numbers(tmp_path / "run", runs.plain)
    said = capsys.readouterr().err
    assert [said.count(f"--report-to {name} ") for name in ALL] == [1, 1, 1] and said.count("\n") == 3
    assert fakes["trackio"].calls == [("scalars", 1), ("scalars", 2)]


def test_a_resumed_training_shows_a_new_logger_the_steps_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, small_catalogue: Path
) -> None:
    config = settings(checkpoint, small_catalogue, tmp_path / "run", max_steps=2, lr_schedule="constant")
    train(config)
    fake = FakeLogger()
    monkeypatch.setattr(report_channel, "open_logger", lambda name, run: fake.opened(run))
    resumed = replace(config, max_steps=4, resume=True, report_to=("tensorboard",), report_checkpoints="end")
    train(resumed)
    files = ["adapter_config.json", "adapter_model.safetensors", "state.json", "task.json"]
    assert fake.calls == [
        *(("scalars", step) for step in (1, 2, 3, 4)), ("answers", 4), ("checkpoint", files), ("close", "finished"),
    ]  # fmt: skip
    fake.calls.clear()
    train(resumed)  # all is done and shown: nothing is shown again
    assert fake.calls == [("checkpoint", files), ("close", "finished")]


def test_steps_that_a_kill_took_from_a_logger_are_shown_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, small_catalogue: Path
) -> None:
    """W&B keeps some seconds in memory: what it was given is not what it has."""
    fake = FakeLogger()
    monkeypatch.setattr(report_channel, "open_logger", lambda name, run: fake.opened(run))
    config = settings(checkpoint, small_catalogue, tmp_path / "run", max_steps=4, report_to=("trackio",))
    train_killed(config, 3)
    fake = FakeLogger(held=1)  # of the steps 1 to 3; the training goes on from 2
    train(replace(config, resume=True))
    assert fake.calls == [*(("scalars", step) for step in (2, 3, 4)), ("answers", 4), ("close", "finished")]


def test_wandb_tells_which_steps_it_holds(runs: Runs, tmp_path: Path) -> None:
    killed = min((runs.reported / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    (tmp_path / killed.name).symlink_to(killed)
    assert held_offline(tmp_path, run_id(runs)) == KILLED_AFTER
    assert held_offline(tmp_path, "another0") == 0


def test_with_cached_features_too_reports_change_no_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, small_catalogue: Path
) -> None:
    frozen = {"vision": "off", "projector": "off", "feature_cache": tmp_path / "features", "max_steps": 2}
    config = settings(checkpoint, small_catalogue, tmp_path / "plain", **frozen)
    train(config)
    fake = FakeLogger()
    monkeypatch.setattr(report_channel, "open_logger", lambda name, run: fake.opened(run))
    train(replace(config, output=tmp_path / "reported", report_to=("trackio",)))
    assert [call for call in fake.calls if call[0] == "answers"] == [("answers", 2)]
    same_numbers(tmp_path / "reported", tmp_path / "plain")


def test_only_the_first_of_several_processes_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, small_catalogue: Path
) -> None:
    make = setup.set_up
    monkeypatch.setattr(loop, "set_up", lambda config: replace(make(config), leads=False))
    train(settings(checkpoint, small_catalogue, tmp_path / "run", max_steps=2, report_to=("tensorboard",)))
    assert not (tmp_path / "run" / "report.json").exists() and not (tmp_path / "run" / "tensorboard").exists()
