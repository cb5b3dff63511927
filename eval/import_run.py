"""Import predictions made elsewhere (by another tool, by hand) as a run: a table, or the sample log of a harness.

    python -m eval.import_run --input preds.csv --data CATALOGUE --split test --output RUN --text answer
    python -m eval.import_run --input preds.jsonl --data CATALOGUE --output RUN --fields title=name full_price=price
    python -m eval.import_run --input samples_gsm8k_2026-01-01.jsonl --output RUN
    python -m eval.import_run --input 2026-01-01_mmlu.eval --output RUN --score choice

Of a table, read as data.ingest reads it, one column holds the whole answer (`--text`), which the catalogue's task parses,
or each field has its own column (`--fields`; by default the columns named as the fields). True values come from the
catalogue, by id.

Without `--data`, the input is a sample log of lm-evaluation-harness, lmms-eval or Inspect. Each of its scores from 0 to 1 is
a field of the run, which eval.compare judges; `--score` chooses among them. Of a log without scores the answers are held
against the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .runs.import_config import ImportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    config = parse(ImportConfig, "python -m eval.import_run", __doc__ or "", argv)
    from rich.console import Console

    from .runs.imported import import_run  # with what reads tables and logs: --help and a wrong flag need none of it

    run = import_run(config)
    Console(highlight=False).print(f"wrote {run.manifest['rows']:,} rows to {run.path}", markup=False, soft_wrap=True)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
