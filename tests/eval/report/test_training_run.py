"""`compare --report-to`: the verdict goes into the run of the training, and a logger that fails changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.compare.__main__ import main
from eval.report import training_run
from mlx_phi3v.loggers.logger import RunInfo
from mlx_phi3v.loggers.record import Record, Reported
from tests.helpers.loggers import FakeLogger
from tests.helpers.synthetic_runs import make_rows, write_run


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs with the same answers."""
    folder = tmp_path_factory.mktemp("compared")
    rows = make_rows(200, right=0.9)
    return [str(write_run(folder / name, rows, label=name, backend=name).path) for name in ("torch", "mlx")]


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The output folder of a training that was reported to TensorBoard and W&B."""
    entries = {name: Reported("shop", "first", step=40) for name in ("tensorboard", "wandb")}
    (tmp_path / "training").mkdir()
    Record("abcd1234", entries).save(tmp_path / "training")
    return tmp_path / "training"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[RunInfo]]:
    """opened(fakes): these stand in for the loggers; the runs that they were opened for."""

    def use(fakes: dict[str, FakeLogger]) -> list[RunInfo]:
        runs: list[RunInfo] = []

        def open_fake(name: str, run: RunInfo) -> FakeLogger:
            runs.append(run)
            return fakes[name].opened(run)

        monkeypatch.setattr(training_run, "open_logger", open_fake)
        monkeypatch.setenv("WANDB_MODE", "offline")
        return runs

    return use


def test_the_verdict_goes_wherever_the_training_is_reported(
    compared: list[str], training: Path, opened: Callable[..., list[RunInfo]]
) -> None:
    fakes = {"tensorboard": FakeLogger(), "wandb": FakeLogger()}
    runs = opened(fakes)
    assert main([*compared, "--report-run", str(training), "--resamples", "50"]) == 0
    for fake in fakes.values():
        assert fake.calls == [("verdict", "EQUIVALENT"), ("close", "finished")]
    assert {(run.id, run.project, run.name, run.step, run.goes_on) for run in runs} == {
        ("abcd1234", "shop", "first", 40, False)
    }


def test_tensorboard_shows_the_verdict_with_its_figures(compared: list[str], training: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--report-to", "tensorboard", "--report-run", str(training), "--html", str(training / "report.html")]
    assert main([*compared, *flags, "--resamples", "50"]) == 0
    events = EventAccumulator(str(training / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("verdict/torch-and-mlx")
    shown = text.tensor_proto.string_val[0].decode()
    assert "**EQUIVALENT**" in shown and "200" in shown and "report.html" in shown and "\x1b" not in shown
    figure = "verdict/torch-and-mlx/category3_code/accuracy"
    (a,), (difference,) = (events.Scalars(f"{figure}/{name}") for name in ("a", "difference"))
    assert a.value == pytest.approx(0.9, abs=0.1) and difference.value == 0 and a.step == 40


def test_a_logger_that_fails_leaves_report_and_status_as_they_are(
    compared: list[str], training: Path, opened: Callable[..., list[RunInfo]], capsys: pytest.CaptureFixture[str]
) -> None:
    opened({"tensorboard": FakeLogger(raises="verdict")})
    flags = ["--resamples", "50", "--json"]
    assert main([*compared, *flags]) == 0
    alone = capsys.readouterr().out
    assert main([*compared, *flags, "--report-to", "tensorboard", "--report-run", str(training)]) == 0
    out, err = capsys.readouterr()
    assert out == alone and json.loads(out)["verdict"] == "EQUIVALENT"
    assert err.count("--report-to tensorboard failed") == 1 and "the verdict stands" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--report-to", "wandb"], "no run names the folder of a training that is here; give --report-run OUTPUT"),
        (["--report-to", "trackio", "--report-run", "TRAINING"], "was not reported to trackio; mlx_phi3v.train --resume"),
        (["--report-run", "."], "was not reported anywhere: it has no report.json"),
        (["--report-to", "mlflow"], "--report-to is 'mlflow'; choose wandb, tensorboard, trackio"),
    ],
)
def test_a_run_that_is_not_found_is_said_before_the_work(
    flags: list[str], sentence: str, compared: list[str], training: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main([*compared, *(str(training) if flag == "TRAINING" else flag for flag in flags)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_record_that_is_damaged_is_named(compared: list[str], training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (training / "report.json").write_text('{"id": "../../x", "loggers": {}}')
    assert main([*compared, "--report-run", str(training)]) == 2
    said = capsys.readouterr().err
    assert "report.json: id" in said and "\n" not in said.strip()
    shutil.rmtree(training)
