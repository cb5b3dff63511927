"""One run's tokens scored under another run's model: `RUN/trace-OTHER.jsonl`, one line for each row of OTHER."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec import UNSET

from mlx_phi3v.errors import UserError

from .lines import LineDecoder, read_lines
from .prediction import token_problem
from .run import Run
from .shapes import TopK, TraceShape


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """The tokens of one row of OTHER, scored under RUN's model.

    token_ids: OTHER's tokens, as scored.
    logprobs: of those tokens under RUN's model, in nats.
    top_k: at each step, RUN's likeliest (id, log-probability in nats); empty where not recorded.
    """

    id: str
    token_ids: list[int]
    logprobs: list[float]
    top_k: TopK

    def to_dict(self) -> dict[str, Any]:
        """The values of its line, in the line's order."""
        return asdict(self)


def trace_path(run: Run, other: Run) -> Path:
    """The file with OTHER's tokens scored under RUN's model."""
    return run.path / f"trace-{other.path.resolve().name}.jsonl"


def read_trace(run: Run, other: Run) -> Iterator[ScoredTokens]:
    """The rows of a trace file, one at a time. Raises UserError for a line that is no trace row, naming it and its key."""
    path, decoder = trace_path(run, other), LineDecoder(TraceShape, "trace row")
    seen: dict[str, int] = {}
    with open(path, "rb") as file:
        for number, line in read_lines(file, path):
            if not line.endswith(b"\n"):
                raise UserError(f"{path} line {number} is truncated; trace the run again")
            read = decoder.read(line, path, number)
            row = ScoredTokens(str(read.id), read.token_ids, read.logprobs, [] if read.top_k is UNSET else read.top_k)
            problem = token_problem(row.token_ids, row.logprobs, row.top_k, run.vocabulary)
            if len(row.logprobs) != len(row.token_ids):  # a prediction may lack them, a trace is of nothing else
                problem = f"logprobs has {len(row.logprobs)} items and token_ids {len(row.token_ids)}; they must be as many"
            if row.id in seen:
                problem = f"the row {row.id!r} is in line {seen[row.id]} already; trace the run again"
            if problem:
                raise UserError(f"{path} line {number}: {problem}")
            seen[row.id] = number
            yield row
