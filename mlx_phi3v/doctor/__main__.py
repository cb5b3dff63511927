"""Find out whether this machine's results can be trusted, how fast it is, and what to change.

    python -m mlx_phi3v.doctor                  everything, on each installed backend
    python -m mlx_phi3v.doctor --quick          fp32 alone, and nothing measured
    python -m mlx_phi3v.doctor --model fused    also whether that model computes here what it did when it was written
    python -m mlx_phi3v.doctor --json > doctor.json   to attach to a report

It runs recorded cases of the published code in each dtype, compares every stage and every special kernel with its plain form,
and names the first operation that parts. The speed it measures is stored, unless other work runs on the machine, and
mlx_phi3v.plan and --memory-limit use it from then on. Exit status 0: results can be trusted; 3: a check failed; 1: a mistake
in the flags or files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from .. import cli
from ..errors import run_cli
from .settings import DoctorConfig

FAILED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(DoctorConfig, "python -m mlx_phi3v.doctor", __doc__ or "", argv)
    if config.forget:
        from .. import calibration

        there = calibration.forget()
        print(f"{calibration.path()} {'is removed' if there else 'was not there'}")
        return 0
    from rich.console import Console

    from .page import show  # with what computes: --help and a wrong flag need none of it
    from .report import examine

    report, checks = examine(config)
    if config.json:
        print(json.dumps(report, indent=1))
    else:
        show(report, checks, Console(width=None if Console().is_terminal else 150))
    return 0 if report["trusted"] else FAILED


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
