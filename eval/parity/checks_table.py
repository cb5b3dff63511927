"""The checks in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from mlx_phi3v.golden.checks import Check, first_divergence, worst_by_stage


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
