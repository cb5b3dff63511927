"""Each run's answers scored under the other run's model: how far apart two models are on the same tokens.

The two directions can be made on two machines (see `eval.runs.scored_tokens`); reading them needs neither framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_phi3v.errors import UserError

from ..runs.prediction import Prediction
from ..runs.run import Run
from ..runs.scored_tokens import ScoredTokens, read_trace, trace_path
from .paired_runs import PairedRuns

Step = Sequence[tuple[int, float]]  # the likeliest tokens of one step and their log-probabilities, in nats
_WORST = 10


@dataclass(frozen=True)
class CrossScores:
    """One run's tokens scored under the other's model. KL and gaps are per token, in nats."""

    scored: str  # whose tokens
    under: str  # whose model
    rows: int
    tokens: int
    mean_gap: float  # log-probability under its own model minus that under the other
    mean_kl: float | None  # KL(own || other) over the top k and the pooled rest: a lower bound
    largest_kl: float | None
    diverging: int  # rows in which the other model would choose another token at some step
    median_divergence: float | None  # the step, from 0, at which those rows first diverge
    worst: list[tuple[str, float, int]]  # (id, summed gap, step of the widest gap)


def kl_top_k(own: Step, other: Step) -> float:
    """KL(own || other) in nats over the tokens that both list and one pool of all others.

    Pooling can only lower a divergence (data-processing inequality), so this is a lower bound. Each argument is a
    list of [token, log-probability].
    """
    p, q = dict(own), dict(other)
    shared = [(p[token], q[token]) for token in p if token in q]
    total = sum(math.exp(x) * (x - y) for x, y in shared)
    rest_p = max(0.0, 1 - sum(math.exp(x) for x, _ in shared))
    rest_q = max(1e-12, 1 - sum(math.exp(y) for _, y in shared))
    return max(0.0, total + (rest_p * math.log(rest_p / rest_q) if rest_p > 0 else 0.0))


def cross_score(data: PairedRuns) -> list[CrossScores]:
    """A's tokens under B's model and B's under A's, as far as they were traced.

    Raises UserError where there is no trace, or one of other tokens.
    """
    sides = [(data.run_a, data.run_b, "A", "B"), (data.run_b, data.run_a, "B", "A")]
    present = [side for side in sides if trace_path(side[0], side[1]).is_file()]
    if not present:
        wanted = " and ".join(str(trace_path(run, other)) for run, other, _, _ in sides)
        raise UserError(f"no trace found ({wanted}); make one with eval.predict --trace on the machine that has the model")
    return [_cross_scores(run, other, under, scored, data) for run, other, under, scored in present]


def _cross_scores(run: Run, other: Run, under: str, scored: str, data: PairedRuns) -> CrossScores:
    gaps: list[float] = []
    kls: list[float] = []
    divergences: list[int] = []
    rows: list[tuple[str, float, int]] = []
    for own, trace in _paired_rows(run, other, data):
        step_gaps = np.array(own.logprobs, dtype=float) - np.array(trace.logprobs, dtype=float)
        gaps += step_gaps.tolist()
        rows.append((trace.id, float(step_gaps.sum()), int(step_gaps.argmax()) if len(step_gaps) else 0))
        if own.top_k and trace.top_k:
            kls += [kl_top_k(p, q) for p, q in zip(own.top_k, trace.top_k)]
            divergences += _first_divergence(own.token_ids, trace.top_k)
    return CrossScores(
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


def _paired_rows(run: Run, other: Run, data: PairedRuns) -> Iterator[tuple[Prediction, ScoredTokens]]:
    """(OTHER's own row, the same row under RUN's model). Raises UserError where the tokens scored are others."""
    columns = data.columns_b if other is data.run_b else data.columns_a
    position = columns.position()
    with other.reader() as read:
        for trace in read_trace(run, other):
            if trace.id not in position:
                continue
            own = read(int(columns.offsets[position[trace.id]]))
            if len(own.logprobs) != len(own.token_ids):
                raise UserError(
                    f"{other.path} holds no log-probabilities for {trace.id!r}, so no gap to the trace can be told; "
                    "predict it again, or leave out --trace"
                )
            if own.token_ids != trace.token_ids:
                raise UserError(
                    f"{trace_path(run, other)} scored other tokens of {trace.id!r} than {other.path} holds; trace it again"
                )
            yield own, trace


def _first_divergence(tokens: Sequence[int], top_k: Sequence[Step]) -> list[int]:
    """The first step at which the model's first choice is another token, as a list; empty where there is none."""
    firsts = [max(step, key=lambda item: item[1])[0] if step else None for step in top_k]  # None where not recorded
    return [k for k, (first, token) in enumerate(zip(firsts, tokens)) if first is not None and first != token][:1]
