"""The end of a job over several seeds: the comparison of both sides' trainings, and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mlx_phi3v.commands import as_typed
from mlx_phi3v.progress import result

from .seed_sets import REFERENCE, SeedSets, compare_sets, looked_again

INCONCLUSIVE = 3  # exit status of eval.compare
_MORE = 5  # trainings a side to ask for where one pair says nothing of them


def report_sets(sets: SeedSets, console: Console, page: Path, *, before: int, command: str, as_json: bool) -> dict[str, Any]:
    """Compare, or say how to where this machine has one backend; what the last JSON line tells.

    before: seeds that were compared earlier; command: what goes on from here with another --seeds.
    """
    if len(sets.models) < len(REFERENCE):
        _lines(console, as_json, _elsewhere(sets))
        return {"seeds": sets.seeds}
    if not as_json:
        console.rule(f"{sets.seeds} training{'s' if sets.seeds > 1 else ''} on each backend")
    found = compare_sets(sets, page, as_json=as_json)
    again = looked_again(before, sets.seeds)
    _lines(console, as_json, [*([f"Note: {again}."] if again else []), *_next(sets, found["exit_status"], command)])
    told = {"claim": "as good a training" if sets.seeds > 1 else "these two adapters", "seeds": sets.seeds, **found}
    result(as_json, event="claim", **told)
    return told


def _next(sets: SeedSets, status: int, command: str) -> list[str]:
    if sets.seeds == 1:
        return [
            "One pair of trainings speaks of these two adapters only. Several on each backend go on from here:",
            f"  {command} --seeds {_MORE}",
        ]
    if status != INCONCLUSIVE:
        return []
    return [
        "Not settled: the report says whether rows or trainings would settle it. More trainings go on from here:",
        f"  {command} --seeds {2 * sets.seeds}",
        "More products need another --output. How many of each, before the work:",
        "  python -m eval.plan --help",
    ]


def _elsewhere(sets: SeedSets) -> list[str]:
    """Where one backend trained here and the other trains on another machine."""
    backend = next(iter(sets.models))
    other = next(name for name in REFERENCE if name != backend)
    return [
        f"The runs of {backend} are in {sets.output}. Give the same command with --backends {other} on the other machine, copy "
        "its runs here, and compare:",
        f"  python -m eval.compare --a TORCH_RUN... --b MLX_RUN... --html {sets.output / 'seeds.html'}",
    ]


def _lines(console: Console, as_json: bool, lines: list[str]) -> None:
    for line in [] if as_json else lines:
        typed = as_typed(as_typed(line, "mlx_phi3v.demo"), "mlx_phi3v.train_seeds")
        console.print(Text(typed), soft_wrap=line.startswith("  "))
