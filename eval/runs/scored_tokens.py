"""One run's tokens scored under another run's model: `RUN/trace-OTHER.jsonl`, one line for each row of OTHER."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mlx_phi3v.errors import UserError

from .prediction import TopK, read_json_line, read_top_k
from .run import Run


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

    @classmethod
    def from_line(cls, line: bytes, path: Path, number: int) -> Self:
        """The row in line `number` of `path`. Raises UserError where it is not one."""
        try:
            value = read_json_line(line)
            return cls(str(value["id"]), value["token_ids"], value["logprobs"], read_top_k(value.get("top_k")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} line {number} is no trace row; trace the run again") from None

    def to_dict(self) -> dict[str, Any]:
        """The values of its line, in the line's order."""
        return asdict(self)


def trace_path(run: Run, other: Run) -> Path:
    """The file with OTHER's tokens scored under RUN's model."""
    return run.path / f"trace-{other.path.resolve().name}.jsonl"


def read_trace(run: Run, other: Run) -> Iterator[ScoredTokens]:
    """The rows of a trace file, one at a time. Raises UserError where a line is no trace row."""
    path = trace_path(run, other)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield ScoredTokens.from_line(line, path, number)
