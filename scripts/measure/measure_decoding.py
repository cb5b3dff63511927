"""Host work of a decoding step: the token, its log-probability and the five likeliest of each row.

    python scripts/measure/measure_decoding.py

sorted is how it was done: every row sorted, log-probabilities in fp64. Both are timed in turn on the same scores, of the
published vocabulary; the figure is the least of all rounds, as the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from mlx_phi3v.decoding import log_softmax
from mlx_phi3v.next_tokens import HostScores

VOCABULARY, LIKELIEST = 32064, 5


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


def milliseconds(run: Callable[[np.ndarray], None], logits: np.ndarray) -> float:
    """Of one call."""
    started = time.perf_counter()
    run(logits)
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for rows in (1, 16, 64):
        logits = 3 * np.random.default_rng(0).standard_normal((rows, VOCABULARY), np.float32)
        ways = {"sorted": by_sorting, "groups": by_groups}
        best = {name: float("inf") for name in ways}
        for _ in range(rounds):
            best = {name: min(best[name], milliseconds(run, logits)) for name, run in ways.items()}
        print(json.dumps({"rows": rows} | {f"{name}_ms": round(value, 2) for name, value in best.items()}), flush=True)


if __name__ == "__main__":
    main()
