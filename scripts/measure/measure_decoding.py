"""The host's work for a token, and how full a batch stays.

    python scripts/measure/measure_decoding.py choice             (sorted as it once was, against groups as it is)
    python scripts/measure/measure_decoding.py host --before COMMIT
    python scripts/measure/measure_decoding.py batches [--backend mlx]

choice: a token of each row, its log-probability and the five likeliest, from scores of the published vocabulary in numpy.
host: a whole step of `generate` where the model takes no time. device: the scores are ready, as on an accelerator, where the
host only moves them; cpu: they are numpy's, and choosing is the host's work too. --before COMMIT times that commit too.
batches: answers of 8 to 96 tokens, 16 rows at a time. Rows join where at least that share of a batch has ended; where all of it
must, a batch waits for its longest answer. Steps are counted for 512 rows; 128 are timed with the built-in model.

What is compared is timed in turn, as processor time; the figure is the least of all rounds, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mlx_phi3v.backend import load_backend
from mlx_phi3v.batches import Batch, Example
from mlx_phi3v.checkpoint.hub import resolve_model
from mlx_phi3v.config import load_model_config
from mlx_phi3v.decoding import generate, log_softmax
from mlx_phi3v.next_tokens import HostScores
from mlx_phi3v.sampling import Sampling

VOCABULARY, LIKELIEST = 32064, 5
PROMPT, TOKENS = 300, 24  # tokens of a prompt and of an answer, where the model takes no time; a sixth where numpy chooses
WAYS = {
    "greedy": Sampling(top_k_logged=LIKELIEST),
    "sampled": Sampling(1.0, top_k_logged=LIKELIEST),
    "nucleus": Sampling(1.0, 0.9, top_k_logged=LIKELIEST),
}


def by_sorting(logits: np.ndarray) -> None:
    """The former way."""
    for logprobs in log_softmax(logits):
        int(logprobs.argmax())
        [(int(i), float(logprobs[i])) for i in np.argsort(-logprobs, kind="stable")[:LIKELIEST]]


def by_groups(logits: np.ndarray) -> None:
    """The present way."""
    scores = HostScores(logits)
    read = scores.read(scores.greedy(), LIKELIEST)
    assert read is not None
    for row in range(len(logits)):
        read.pairs(row)


def least(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of processor time of each way, in turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    return best


def some_logits(rows: int) -> np.ndarray:
    """Normal numbers, fp32 [rows, V]."""
    return 3 * np.random.default_rng(0).standard_normal((rows, VOCABULARY), np.float32)


def choice(rounds: int) -> None:
    """Print the time of both ways."""
    for rows in (1, 16, 64):
        logits = some_logits(rows)
        best = least({"sorted": partial(by_sorting, logits), "groups": partial(by_groups, logits)}, rounds)
        say(rows=rows, **{f"{name}_ms": round(1e3 * value, 2) for name, value in best.items()})


class ReadyScores:
    """Scores as on an accelerator that is never waited for: what is asked for is there."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits
        self.ids = logits.argmax(axis=-1)
        self.all_read = {k: HostScores(logits).read(self.ids, k) for k in (0, LIKELIEST)}

    def greedy(self) -> Any:
        """See `next_tokens.Scores`."""
        return self.ids

    def draw(self, draws: Any) -> Any:
        """See `next_tokens.Scores`."""
        return self.ids

    def read(self, tokens: Any, k: int) -> Any:
        """See `next_tokens.Scores`."""
        return self.all_read[k]

    def rows(self, rows: Sequence[int]) -> Any:
        """See `next_tokens.Scores`."""
        return self

    def join(self, *others: Any) -> Any:
        """See `next_tokens.Scores`."""
        return self

    def numpy(self) -> np.ndarray:
        """See `next_tokens.Scores`; the copy from the device."""
        return self.logits.copy()


class NoModel:
    """A backend whose steps take no time."""

    name, dtype = "none", "float32"

    def __init__(self, rows: int, on_device: bool) -> None:
        self.config = load_model_config(resolve_model("tiny"))
        self.scores_on_device = on_device
        self.joins = 0
        self.scores: Any = ReadyScores(some_logits(rows)) if on_device else HostScores(some_logits(rows))

    def prefill(self, batch: Batch) -> tuple[Any, Any]:
        """See `backend.Backend`."""
        return self.scores, None

    def decode(self, cache: Any, tokens: Any) -> Any:
        """See `backend.Backend`."""
        return self.scores

    def keep_rows(self, cache: Any, rows: list[int]) -> None:
        """See `backend.Backend`."""

    def join(self, cache: Any, *others: Any) -> None:
        """See `backend.Backend`."""
        self.joins += 1


def prompts(rows: int, tokens: int) -> list[Example]:
    """Texts of so many tokens."""
    ids, labels = np.full(tokens, 5, np.int64), np.full(tokens, -100, np.int64)
    return [Example(f"row {i}", ids, labels, ()) for i in range(rows)]


def host_work(rounds: int) -> dict[str, float]:
    """Milliseconds of a step, by where the scores are, how tokens are chosen and the number of rows."""
    found = {}
    for on_device in (True, False):
        for rows in (1, 16, 64):
            backend: Any = NoModel(rows, on_device)
            examples = prompts(rows, PROMPT)
            for way, sampling in WAYS.items():
                answer = partial(generate, backend, examples, stop_ids=(), sampling=sampling)
                more = TOKENS if on_device else TOKENS // 6
                ways = {str(tokens): partial(answer, max_new_tokens=tokens) for tokens in (1, 1 + more)}
                best = least(ways, rounds if on_device else max(rounds // 3, 1))
                name = f"{'device' if on_device else 'cpu'} {way} {rows}"
                found[name] = 1e3 * (best[str(1 + more)] - best["1"]) / more
    return found


def at_commit(commit: str, script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints for --raw with the package of another commit, in a process of its own."""
    archive = subprocess.run(["git", "archive", commit, "mlx_phi3v"], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        command = [sys.executable, str(Path(script).resolve()), *arguments, "--raw"]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def host(rounds: int, before: str | None) -> None:
    """Print milliseconds of a step, before and after."""
    now = host_work(rounds)
    once = at_commit(before, __file__, "host", "--rounds", str(rounds)) if before else {}
    again = host_work(rounds)
    for name, value in now.items():
        figures = {"before_ms": round(once[name], 3)} if name in once else {}
        where, way, rows = name.split()
        say(scores=where, choice=way, rows=int(rows), **figures, now_ms=round(min(value, again[name]), 3))


def states(count: int) -> list[Any]:
    """Rows with answers of 8 to 96 tokens."""
    from mlx_phi3v.answer_batch import RowState

    lengths = np.random.default_rng(0).integers(8, 97, count).tolist()
    return [RowState(one, Sampling(), length) for one, length in zip(prompts(count, 40), lengths)]


def batches(rounds: int, backend_name: str, size: int = 16) -> None:
    """Print the steps where rows join in shares of a batch, and the time of fixed batches and of rows that join."""
    from mlx_phi3v import answer_batch

    def steps(backend: Any, count: int, share: int) -> list[int]:
        with mock.patch.object(answer_batch, "_share", lambda _: share):  # 1: none joins before all have ended
            return [len(step) for step in answer_batch.answers(backend, states(count), (), size)]

    for share in (1, 2, 4, size):
        none: Any = NoModel(size, on_device=True)
        none.scores_on_device = False
        found = steps(none, 512, share)
        say(joining=f"1/{share} of a batch", steps=len(found), rows_a_step=round(sum(found) / len(found), 1), joins=none.joins)
    backend = load_backend(backend_name, resolve_model("tiny"), dtype="float32")
    best = least({f"1/{share}": partial(steps, backend, 128, share) for share in (1, 2, 4)}, rounds)
    say(backend=backend_name, time={name: round(value / best["1/1"], 2) for name, value in best.items()})


def say(**figures: Any) -> None:
    """Print them as a line."""
    print(json.dumps(figures), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choice", "host", "batches"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--before", metavar="COMMIT", help="host: time that commit's package too")
    parser.add_argument("--backend", default="mlx", choices=("mlx", "torch"))
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "choice":
        choice(args.rounds)
    elif args.what == "batches":
        batches(args.rounds, args.backend)
    elif args.raw:
        say(**host_work(args.rounds))
    else:
        host(args.rounds, args.before)


if __name__ == "__main__":
    main()
