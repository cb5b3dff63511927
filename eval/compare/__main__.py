"""Compare two finished runs: the verdict, every measure with its interval, and why answers diverge.

    python -m eval.compare RUN_A RUN_B                            two runs
    python -m eval.compare RUN_A RUN_B --one-sided                only a loss of RUN_B counts
    python -m eval.compare RUN --baseline baseline.jsonl          a regression gate: only a loss counts
    python -m eval.compare RUN_A RUN_B RUN_C --reference RUN_A    a table over any number of runs
    python -m eval.compare --a RUN... --b RUN...                  two ways to train: several trainings a side

Two runs of one adapter show whether two backends compute the same; two runs of two adapters speak of these adapters only.
Whether one way to train is as good as another takes trainings with several seeds on both sides.

It needs neither torch nor mlx. Exit status: 0 EQUIVALENT or NO WORSE, 1 WORSE or BETTER by more than a margin, or a guard
is raised (a measure that is not judged got worse; --guards off), 3 INCONCLUSIVE, 4 NOT MEANINGFUL (a run does not beat a
simple predictor), 2 wrong usage or runs that must not be compared. A table exits 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import UserError, run_cli, shown

from .settings import CompareConfig, check_runs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status 1 means WORSE or BETTER here, so every error leaves with 2."""
    try:
        config = parse(CompareConfig, "python -m eval.compare", __doc__ or "", argv)
        check_runs(config)
        from .compare import compare  # with all that compares and draws: --help and a wrong flag need none of it

        return compare(config)
    except UserError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
    return 2


console = partial(run_cli, main, mistake=2)

if __name__ == "__main__":
    console()
