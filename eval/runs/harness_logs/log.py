"""What is taken of a harness' log, whatever harness wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlx_phi3v.documents import plain
from mlx_phi3v.errors import UserError

from .scores import is_share


@dataclass
class LoggedSample:
    """One sample of a log.

    id: of the sample in its data set. place: where in the file it is, for messages.
    target: the right answer, as the harness wrote it. text: the model's answer; None where it only scored choices.
    document: a digest of what was asked, equal in two logs of the same data; empty where the log has no such thing.
    scores: name -> value; None where the harness gave none.
    """

    id: str
    place: str
    target: str
    text: str | None
    document: str = ""
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass
class HarnessLog:
    """A log. `scores`: names of those from 0 to 1, in the log's order; `left_out`: name -> why a score cannot be judged.

    split_rows and limit are None where the log does not say them.
    """

    tool: str
    task: str | None
    model: str | None
    samples: list[LoggedSample]
    split_rows: int | None = None
    limit: int | None = None
    status: str = "success"
    scores: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found: dict[str, str] = {}
        for sample in self.samples:
            for name, value in sample.scores.items():
                found.setdefault(name, "")
                if value is not None and not is_share(value) and not found[name]:
                    found[name] = f"{value:g} in {sample.place} is no share from 0 to 1"
        given = {name for sample in self.samples for name, value in sample.scores.items() if value is not None}
        self.left_out = {name: why or "no number" for name, why in found.items() if why or name not in given}
        self.scores = [name for name in found if name not in self.left_out]

    def choose(self, names: tuple[str, ...]) -> None:
        """Take these scores alone. Raises UserError for one that the log does not have, or that cannot be judged."""
        for name in names:
            if name in self.left_out:
                raise UserError(f"--score {plain(name)} cannot be judged: {self.left_out[name]}")
            if name not in self.scores:
                known = ", ".join(map(plain, self.scores)) or "none"
                raise UserError(f"the log has no score {plain(name)!r}; its scores are {known}")
        if names:
            self.scores = [name for name in self.scores if name in names]

    def sentence(self) -> str:
        """What was found, for the user."""
        said = f"a log of {self.tool}: {_count(len(self.samples))}"
        said += f" of {plain(self.task)}" if self.task else ""
        said += f" by {plain(self.model)}" if self.model else ""
        scored = ", ".join(map(plain, self.scores))
        said += f", scored by {scored}" if scored else ", which has no score from 0 to 1: answers are held against the target"
        without = sum(any(sample.scores.get(name) is None for name in self.scores) for sample in self.samples)
        said += f"; {_count(without)} {'lacks' if without == 1 else 'lack'} a score, which counts as 0" if without else ""
        said += f"; left out: {', '.join(f'{plain(n)} ({why})' for n, why in self.left_out.items())}" if self.left_out else ""
        return said + (f"; its status is {plain(self.status)!r}, not 'success'" if self.status != "success" else "")


def _count(samples: int) -> str:
    return f"{samples:,} sample" if samples == 1 else f"{samples:,} samples"


def once(samples: Iterator[LoggedSample], path: Path) -> list[LoggedSample]:
    """The samples of a log. Raises UserError where two have one id, or where there is none."""
    seen: dict[str, str] = {}
    found = []
    for sample in samples:
        if sample.id in seen:
            raise UserError(
                f"{path} {sample.place} repeats the sample {plain(sample.id)} of {seen[sample.id]}; keep one of them"
            )
        seen[sample.id] = sample.place
        found.append(sample)
    if not found:
        raise UserError(f"{path} holds no samples; log them again (lm-evaluation-harness and lmms-eval: --log_samples)")
    return found
