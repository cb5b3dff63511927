"""Score another run's tokens under this model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_phi3v.backend import Backend
from mlx_phi3v.batches import Example, ExampleMaker, collate
from mlx_phi3v.catalogue import Split, iterate
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_path
from mlx_phi3v.next_tokens import HostScores
from mlx_phi3v.overflow import not_finite
from mlx_phi3v.progress import Progress

from ..runs.prediction import Prediction
from ..runs.run import Run
from ..runs.scored_tokens import ScoredTokens, trace_path
from .run_manifest import TOP_K
from .settings import PredictConfig


def trace(config: PredictConfig, backend: Backend, maker: ExampleMaker, split: Split) -> dict[str, Any]:
    """Score the tokens of run `config.trace` under this model, into OUTPUT/trace-OTHER.jsonl."""
    assert config.trace is not None
    run, other = Run.load(config.output), Run.load(config.trace)
    where = {str(row["id"]): i for i, row in enumerate(iterate(split))}
    path = trace_path(run, other)
    rows = sum(1 for _ in other.distinct())  # all are read and checked before the first is scored
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        Progress("tracing", rows, as_json=config.json) as progress,
    ):
        for number, _, row in other.numbered():
            _check_row(row, other.place(number), where, config, backend.config.vocab_size)
            example, _ = maker.of_split(split, where[row.id], with_answer=False)
            file.write(json.dumps(score_tokens(backend, example, row.token_ids).to_dict(), allow_nan=False) + "\n")
            progress.advance()
    return {"trace": str(path), "rows": rows}


def _check_row(row: Prediction, place: str, where: Mapping[str, int], config: PredictConfig, vocabulary: int) -> None:
    """Raises UserError for a row that the split lacks, or tokens that this model does not have."""
    if row.id not in where:
        raise UserError(f"{place} is the row {row.id!r}, which split {config.split!r} lacks; give its --data")
    if max(row.token_ids, default=0) >= vocabulary:
        raise UserError(
            f"{place} has the token id {max(row.token_ids)}, which is none of the {vocabulary} of {config.model}; "
            "trace it with a model of the same tokenizer"
        )


def score_tokens(backend: Backend, example: Example, token_ids: list[int]) -> ScoredTokens:
    """Log-probabilities (nats) of given tokens after a prompt, and the likeliest tokens at each step."""
    ids = np.concatenate([example.input_ids, np.asarray(token_ids, np.int64)])
    whole = Example(example.id, ids, np.full(len(ids), -100, np.int64), example.images)
    prompt = len(example.input_ids)
    logits = backend.forward(collate([whole], backend.config), prompt - 1).logits[0][:-1]
    read = HostScores(logits).read(np.asarray(token_ids, np.int64), TOP_K)
    if read is None:
        raise UserError(not_finite("the scores of the given tokens", backend.dtype))
    return ScoredTokens(
        example.id,
        token_ids,
        logprobs=[round(value, 6) for value in read.logprobs.tolist()],
        top_k=[[(t, round(value, 6)) for t, value in read.pairs(i)] for i in range(len(token_ids))],
    )
