"""Merge the shards of one run, made on several machines.

    python -m eval.merge SHARD_1 SHARD_2 ... --output RUN

Shards must have the same hashes, settings and task, and be all of 1/n to n/n. Rows must not repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlx_phi3v.cli import option, parse
from mlx_phi3v.errors import run_cli
from mlx_phi3v.progress import stages


@dataclass(frozen=True)
class MergeConfig:
    """Settings of a merge of shards."""

    shards: tuple[Path, ...] = option(help="run folders of eval.predict --shard i/n", positional=True, metavar="SHARD")
    output: Path = option(help="the run folder to write", writes="new")
    partial: bool = option(False, help="merge although shards are missing or unfinished; the run stays unfinished")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    config = parse(MergeConfig, "python -m eval.merge", __doc__ or "", argv)
    from rich.console import Console

    from .runs.run import Run  # with what reads runs: --help and a wrong flag need none of it
    from .shards import merge_runs

    shards = [Run.load(path) for path in config.shards]
    with stages() as say:
        say(f"merging {len(shards)} shards")
        run = merge_runs(shards, config.output, partial=config.partial)
    Console(highlight=False).print(f"wrote {run.manifest['rows']:,} rows to {config.output}", markup=False, soft_wrap=True)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
