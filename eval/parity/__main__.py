"""Compare the backends with recorded outputs of the published model, or with each other, stage by stage.

    python -m eval.parity --golden tests/golden                   both backends against recorded outputs
    python -m eval.parity --golden DIR --backend mlx --json > checks.json
    python -m eval.parity --model M --image photo.jpg             MLX against torch: names the first layer that diverges

Prints the worst error of every stage and its tolerance. Exit status 0 only if all pass.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from mlx_phi3v import cli
from mlx_phi3v.backend import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.errors import UserError, run_cli
from mlx_phi3v.golden.checks import Check, first_divergence, worst_by_stage
from mlx_phi3v.progress import say
from mlx_phi3v.ranges import MAX_CROPS, MAX_TOKENS


@dataclass(frozen=True)
class ParityConfig:
    """Settings of a parity run."""

    golden: Path | None = option(None, help="folder of recorded outputs, such as tests/golden")
    tokenizers: Path | None = option(None, help="folder of real tokenizers by model name; by default GOLDEN/../phi3v")
    model: str | None = option(None, help="checkpoint to run on both backends instead, and compare them", path=True)
    image: tuple[str, ...] = option((), help="with --model: photos of the prompt", path=True)
    num_crops: int | None = option(None, help="with --model: most crops of a photo", at_least=1, at_most=MAX_CROPS)
    new_tokens: int = option(16, help="with --model: tokens generated greedily", at_least=1, at_most=MAX_TOKENS)
    backend: tuple[str, ...] = option(BACKENDS, help="with --golden: backends to check", choices=BACKENDS)
    json: bool = option(False, help="print every check as JSON instead of the table")


def show(checks: Sequence[Check], console: Console) -> None:
    """A table of the worst check of each stage and backend, then every failure."""
    table = Table(title="Parity", title_justify="left")
    columns: dict[str, JustifyMethod] = {
        "backend": "left",
        "stage": "left",
        "worst error": "right",
        "tolerance": "right",
        "where": "left",
        "": "left",
    }
    for name, justify in columns.items():
        table.add_column(name, justify=justify)
    for worst in worst_by_stage(checks):
        verdict = "[green]pass[/]" if worst.passed else "[red]FAIL[/]"
        table.add_row(worst.backend, worst.stage, f"{worst.error:.2e}", f"{worst.tolerance:.1e}", escape(worst.where), verdict)
    console.print(table)
    failed = [check for check in checks if not check.passed]
    for check in failed[:20]:
        console.print(
            f"[red]FAIL[/] {check.backend} {check.stage} {escape(check.where)}: {check.error:.3e} > {check.tolerance:.1e} "
            + escape(check.note)
        )
    first = first_divergence(checks)
    if first:
        console.print(f"first stage that diverges: {first.stage} ({escape(first.where)})")
    console.print(f"{len(checks) - len(failed)} passed, {len(failed)} failed")


def run(config: ParityConfig) -> list[Check]:
    """All chosen checks. Raises UserError for wrong settings or files."""
    if (config.golden is None) == (config.model is None):
        raise UserError("give --golden DIR (recorded outputs) or --model M (MLX against torch), and not both")
    if config.golden is not None:
        from .golden import check_backend, check_tokens

        checks = check_tokens(config.golden, config.tokenizers or config.golden.parent / "phi3v")
        for backend in config.backend:
            say(f"running {config.golden} on {backend}")
            checks += check_backend(config.golden, backend)
        return checks
    from .backends import compare_backends

    assert config.model is not None
    return compare_backends(config.model, config.image, num_crops=config.num_crops, new_tokens=config.new_tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    config = cli.parse(ParityConfig, "python -m eval.parity", __doc__ or "", argv)
    checks = run(config)
    if config.json:
        print(json.dumps([{**asdict(check), "passed": check.passed} for check in checks], indent=2))
    else:
        show(checks, Console(width=None if Console().is_terminal else 120))
    return 0 if all(check.passed for check in checks) else 1


console = partial(run_cli, main)

if __name__ == "__main__":
    console()
