"""Each run's answers scored under the other run's model: how far two models lie apart on the same tokens.

Where RUN's model has scored the tokens of OTHER, `RUN/trace-OTHER.jsonl` holds one row per product:
id, token_ids (OTHER's, as scored), logprobs (of those tokens under RUN's model), top_k (RUN's model, step by step).
The two directions can be made on two machines; reading them needs neither framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_phi3v.errors import UserError

from ..runs.run import Run
from .joined import Joined

TopK = Sequence[Sequence[float]]
_WORST = 10


@dataclass(frozen=True)
class Direction:
    """One run's tokens under the other's model. KL and gaps are per token, in nats."""

    scored: str  # whose tokens
    under: str  # whose model
    rows: int
    tokens: int
    mean_gap: float  # log-probability under the own model minus under the other
    mean_kl: float | None  # KL(own || other) over the top k and one rest: never more than the true KL
    largest_kl: float | None
    diverging: int  # rows in which the other model's first choice is once another token
    median_divergence: float | None  # the step, from 0, at which those rows first diverge
    worst: list[tuple[str, float, int]]  # (id, summed gap, step of the widest gap)


def trace_path(run: Run, other: Run) -> Path:
    """Where OTHER's tokens under RUN's model are kept."""
    return run.path / f"trace-{other.path.resolve().name}.jsonl"


def read_trace(run: Run, other: Run) -> Iterator[dict[str, Any]]:
    """The rows of a trace file, one at a time. Raises UserError where a line is broken."""
    path = trace_path(run, other)
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                row["id"], row["token_ids"], row["logprobs"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} line {number} is no trace row; trace the run again") from None
            yield row


def kl_top_k(own: TopK, other: TopK) -> float:
    """KL(own || other) in nats over the tokens both list and one pool of all the rest.

    Pooling can only lower a divergence (data-processing inequality), so this is a lower bound. Each argument is a
    list of [token, log-probability].
    """
    p, q = ({int(token): float(logprob) for token, logprob in side} for side in (own, other))
    shared = [(p[token], q[token]) for token in p if token in q]
    total = sum(math.exp(x) * (x - y) for x, y in shared)
    rest_p = max(0.0, 1 - sum(math.exp(x) for x, _ in shared))
    rest_q = max(1e-12, 1 - sum(math.exp(y) for _, y in shared))
    return max(0.0, total + (rest_p * math.log(rest_p / rest_q) if rest_p > 0 else 0.0))


def trace_directions(data: Joined) -> list[Direction]:
    """Both directions, as far as their files are there. Raises UserError where neither is, or one is of another run."""
    sides = [(data.run_a, data.run_b, "A", "B"), (data.run_b, data.run_a, "B", "A")]
    present = [side for side in sides if trace_path(side[0], side[1]).is_file()]
    if not present:
        wanted = " and ".join(str(trace_path(run, other)) for run, other, _, _ in sides)
        raise UserError(f"no trace found ({wanted}); make one with eval.predict --trace, where each run's model is at hand")
    return [_direction(run, other, under, scored, data) for run, other, under, scored in present]


def _direction(run: Run, other: Run, under: str, scored: str, data: Joined) -> Direction:
    gaps: list[float] = []
    kls: list[float] = []
    divergences: list[int] = []
    rows: list[tuple[str, float, int]] = []
    for own, trace in _paired_rows(run, other, data):
        step_gaps = np.array(own["logprobs"], dtype=float) - np.array(trace["logprobs"], dtype=float)
        gaps += step_gaps.tolist()
        rows.append((trace["id"], float(step_gaps.sum()), int(step_gaps.argmax()) if len(step_gaps) else 0))
        if own.get("top_k") and trace.get("top_k"):
            kls += [kl_top_k(p, q) for p, q in zip(own["top_k"], trace["top_k"])]
            divergences += _first_divergence(own["token_ids"], trace["top_k"])
    return Direction(
        scored=scored,
        under=under,
        rows=len(rows),
        tokens=len(gaps),
        mean_gap=float(np.mean(gaps)) if gaps else 0.0,
        mean_kl=float(np.mean(kls)) if kls else None,
        largest_kl=max(kls, default=None),
        diverging=len(divergences),
        median_divergence=float(np.median(divergences)) if divergences else None,
        worst=sorted(rows, key=lambda row: -row[1])[:_WORST],
    )


def _paired_rows(run: Run, other: Run, data: Joined) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(OTHER's own row, the same row under RUN's model). Raises UserError where the tokens scored are others."""
    columns = data.columns_b if other is data.run_b else data.columns_a
    position = columns.position()
    for trace in read_trace(run, other):
        if trace["id"] not in position:
            continue
        own = other.read(int(columns.offsets[position[trace["id"]]]))
        if own.get("token_ids") != trace["token_ids"]:
            raise UserError(
                f"{trace_path(run, other)} scored other tokens of {trace['id']!r} than {other.path} holds; trace it again"
            )
        yield own, trace


def _first_divergence(tokens: Sequence[int], top_k: Sequence[TopK]) -> list[int]:
    """The first step at which the model's first choice is another token, as a list; empty where there is none."""
    firsts = [max(step, key=lambda item: item[1])[0] for step in top_k]
    return [k for k, (first, token) in enumerate(zip(firsts, tokens)) if first != token][:1]
