"""Compare the backends with recorded outputs of the published model, or with each other, stage by stage.

    python -m eval.parity --golden tests/golden                   both backends against recorded outputs
    python -m eval.parity --golden DIR --backend mlx --json > checks.json
    python -m eval.parity --model M --image photo.jpg             MLX against torch: names the first layer that diverges

Prints the worst error of every stage and its tolerance. Exit status 0 only if all pass.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from mlx_phi3v.cli import parse
from mlx_phi3v.errors import run_cli

from .settings import ParityConfig


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = parse(ParityConfig, "python -m eval.parity", __doc__ or "", argv)
    from rich.console import Console

    from .all_checks import run_checks  # with what loads a model: --help and a wrong flag need none of it
    from .checks_table import show

    checks = run_checks(config)
    if config.json:
        print(json.dumps([{**asdict(check), "passed": check.passed} for check in checks], indent=2))
    else:
        show(checks, Console(width=None if Console().is_terminal else 120))
    return 0 if all(check.passed for check in checks) else 1


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
