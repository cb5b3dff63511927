"""Ranks that train together: they must train the same, and none waits for another for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mlx_phi3v import ranks
from mlx_phi3v.errors import UserError
from mlx_phi3v.ranks import require_agreement
from tests.helpers.paths import ROOT


@dataclass
class World:
    """The ranks as threads that add their arrays."""

    count: int
    sent: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock, self.barrier = threading.Lock(), threading.Barrier(self.count)

    def add(self, values: np.ndarray) -> np.ndarray:
        with self.lock:
            self.sent.append(values)
        self.barrier.wait(300)
        total = np.sum(self.sent, axis=0, dtype=values.dtype)
        self.barrier.wait(300)
        self.sent.clear()
        self.barrier.wait(300)
        return np.asarray(total)


@dataclass
class Rank:
    """As much of a backend as the ranks' agreement needs."""

    rank: int
    others: World

    def world(self) -> tuple[int, int]:
        return self.rank, self.others.count

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        return self.others.add(values)


def agree(facts: list[dict[str, object]]) -> list[str | None]:
    """What each rank is told: one sentence, or None."""
    world = World(len(facts))

    def one(rank: int) -> str | None:
        backend: Any = Rank(rank, world)
        try:
            require_agreement(backend, facts[rank])
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(facts)) as pool:
        return list(pool.map(one, range(len(facts))))


FACTS: dict[str, object] = {"the model": "abc", "--learning-rate": 2e-4, "--seed": 3}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_that_train_the_same_are_told_nothing(count: int) -> None:
    assert agree([FACTS] * count) == [None] * count


def test_every_rank_is_told_which_one_differs_and_in_what() -> None:
    told = agree([FACTS, FACTS | {"--seed": 4, "the model": "abd"}, FACTS, FACTS | {"--learning-rate": 3e-4}])
    assert len(set(told)) == 1 and told[0] is not None
    assert "rank 1 in the model, --seed; rank 3 in --learning-rate (against rank 0)" in told[0]


def test_another_version_of_the_code_is_named_before_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    told = agree([FACTS, FACTS | {"--of-a-later-version": 1}])
    assert told[0] == told[1] and "rank 1 in the names of its settings" in str(told[0])
    versions = iter("aab")
    monkeypatch.setattr(ranks, "_code_version", lambda: next(versions))
    assert "in the version of this code" in str(agree([FACTS] * 3)[0])


WAITS = """
import time
from mlx_phi3v.ranks import TimeLimit
limit = TimeLimit({seconds}, lambda: "rank 1 waited; no checkpoint was written yet")
with limit.waiting():
    pass
time.sleep({between})  # not in a block: the limit does not run
with limit.waiting():
    time.sleep({inside})
print("went on")
"""


def wait(seconds: float, between: float, inside: float) -> subprocess.CompletedProcess[str]:
    code = WAITS.format(seconds=seconds, between=between, inside=inside)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_rank_that_waits_too_long_ends_with_one_sentence() -> None:
    ended = wait(seconds=0.5, between=1.0, inside=300)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: rank 1 waited; no checkpoint was written yet\n"


def test_a_rank_that_is_answered_in_time_goes_on() -> None:
    went_on = wait(seconds=200, between=0, inside=0)
    assert (went_on.returncode, went_on.stdout, went_on.stderr) == (0, "went on\n", "")


BOTH_LEAVE = """
import threading, time
from mlx_phi3v.ranks import TimeLimit

calls = []

def sentence():
    calls.append(1)
    if len(calls) == 1:
        threading.Thread(target=limit.leave).start()
        time.sleep(0.3)
    return f"call {len(calls)}"

limit = TimeLimit(600, sentence)
limit.leave()
"""


def test_the_sentence_is_said_once_where_a_thread_and_a_signal_end_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BOTH_LEAVE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, "error: call 1\n")
