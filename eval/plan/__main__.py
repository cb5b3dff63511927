"""How many rows, and how many trainings, a verdict of EQUIVALENT needs: find out before the work.

    python -m eval.plan --rows 304 --discordance 5 15             304 test rows; 5 % and 15 % of them discordant
    python -m eval.plan --rows 304 --discordance 5 15 --seeds-deviation 1.5 --cluster-size 3
    python -m eval.plan RUN_A RUN_B --rows 2000                   the rates of a pilot: two runs on a few rows

A row is discordant where only one of two runs has it right; --discordance takes one number for each measure that decides
(category accuracy, price within 10 %). It speaks of two claims:

(a) The same computation: one adapter on two backends. Few rows are discordant (--same-discordance), a few hundred decide.
(b) As good a training: one backend's trainings against another's. Trainings differ by their seed, so several a side are
    needed, and more rows do not replace them. --seeds-deviation is how far a training's share moves from seed to seed.

The power is the chance of EQUIVALENT where A and B are truly as good (or differ by --difference), each measure at a
one-sided 5 % as in eval.compare. 80 % is what one plans for. Both sides must also beat the simple predictors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .settings import PlanConfig, check_flags


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(PlanConfig, "python -m eval.plan", __doc__ or "", argv)
    check_flags(config)
    from .make_plan import print_plan  # with scipy: --help and a wrong flag need none of it

    print_plan(config)
    return 0


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
