"""A logger behind its worker: what it raises, or that it never answers, is one line and stays away from the caller."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mlx_phi3v.loggers.worker import Worker
from tests.helpers.loggers import SECRET, FakeLogger

LONG = 300.0  # seconds, for what ends by itself


@pytest.fixture
def forever() -> Iterator[threading.Event]:
    """What a hanging logger waits for; set at the end, so that its thread ends."""
    event = threading.Event()
    yield event
    event.set()


def test_calls_are_made_in_order_and_closing_says_where_the_run_is() -> None:
    fake = FakeLogger()
    worker = Worker("trackio", lambda: fake)
    for step in range(5):
        worker.put(partial(FakeLogger.scalars, step=step, values={}))
    assert worker.close("finished", LONG) == "here" and not worker.failed
    assert fake.calls == [*(("scalars", step) for step in range(5)), ("close", "finished")]


@pytest.mark.parametrize("what", ["open", "scalars", "close"])
def test_a_logger_that_raises_is_left_with_one_line(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    fake = FakeLogger(raises=what)
    worker = Worker("wandb", fake.opened)
    for _ in range(3):
        worker.put(lambda logger: logger.scalars(1, {}))
    assert worker.close("finished", LONG) == "" and worker.failed
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--report-to wandb failed (RuntimeError: the key *** is wrong); the training goes on without it" in said


def test_a_library_that_exits_does_not_end_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    worker = Worker("wandb", lambda: sys.exit(3))
    assert worker.close("finished", LONG) == ""
    assert "--report-to wandb failed (SystemExit: 3)" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["open", "scalars", "close"])
def test_a_logger_that_never_answers_is_left_at_the_end(
    what: str, forever: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = Worker("wandb", FakeLogger(hangs=what, forever=forever).opened)
    worker.put(lambda logger: logger.scalars(1, {}))
    assert worker.close("finished", 0.1) == ""
    assert "--report-to wandb did not end within 0.1 seconds" in capsys.readouterr().err


def test_a_logger_that_never_answers_takes_no_memory(forever: threading.Event, capsys: pytest.CaptureFixture[str]) -> None:
    worker = Worker("wandb", FakeLogger(hangs="scalars", forever=forever).opened, most_waiting=3)
    for _ in range(10):
        worker.put(lambda logger: logger.scalars(1, {}))
    assert worker.failed and worker.close("finished", LONG) == ""
    assert capsys.readouterr().err.count("--report-to wandb does not answer") == 1
