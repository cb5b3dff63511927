"""The page of `doctor`: what is installed, which checks failed, how fast it is, what to change."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..golden.checks import Check, worst_by_stage
from ..text import printable


def show(report: dict[str, Any], checks: list[Check], console: Console) -> None:
    """All of it; `checks` are those of `report`."""
    _installed(report, console)
    _models(report, checks, console)
    _kernels(report, checks, console)
    _speed(report, console)
    for check in [check for check in checks if not check.passed][:20]:
        where = f"{check.stage} {check.where}".strip()
        line = f"{check.backend} {where}: {check.error:.3e} > {check.tolerance:.1e} {check.note}"
        console.print(f"[red]FAIL[/] {escape(printable(line))}", highlight=False)
    for name, operation in report["first_to_part"].items():
        console.print(f"{name}: the first operation that parts is {operation}", markup=False, highlight=False)
    for change in report["advice"]:
        console.print(f"to change: {printable(change)}", markup=False, highlight=False)
    verdict = "[green]results can be trusted[/]" if report["trusted"] else "[red]results cannot be trusted[/]"
    console.print(f"{verdict}: {report['passed']} checks passed, {report['failed']} failed", highlight=False)


def _installed(report: dict[str, Any], console: Console) -> None:
    table = Table(title="Installed", title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("which")
    machine = report["machine"]
    rows = {
        "versions": ", ".join(f"{name} {version or '(none)'}" for name, version in report["versions"].items()),
        "machine": f"{machine['system']}; {machine['chip']}, {machine['cores']} cores, {machine['busy']:.0%} of them busy",
        "memory": f"{machine['memory_gb']} GB, {machine['memory_free_gb']} GB free",
        "environment": ", ".join(f"{name}={value}" for name, value in machine["environment"].items()) or "nothing set",
    }
    for backend, found in report["devices"].items():
        flat = {key: value for key, value in found.items() if key != "modes_before" and value is not None}
        rows[backend] = ", ".join(_setting(name, value, found) for name, value in flat.items())
    for row in rows.items():
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print(table)


def _setting(name: str, value: Any, found: dict[str, Any]) -> str:
    if isinstance(value, dict):  # the modes: as they are now, and as they were where that differs
        before = found[f"{name}_before"]
        return ", ".join(
            f"{key} {_word(now)}{'' if now == before[key] else f' (set by us, was {_word(before[key])})'}"
            for key, now in value.items()
        )
    return f"{name.removesuffix('_gb').replace('_', ' ')} {_word(value)}{' GB' if name.endswith('_gb') else ''}"


def _word(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _models(report: dict[str, Any], checks: list[Check], console: Console) -> None:
    table = Table(title="The recorded model on this device", title_justify="left")
    for column in ("backend, weights", "checks", "nearest to its tolerance", "error", "tolerance", ""):
        table.add_column(column, justify="right" if column in ("checks", "error", "tolerance") else "left")
    kernels = set(report["devices"])  # a check of a kernel has the backend's name alone
    for label in dict.fromkeys(check.backend for check in checks if check.backend not in kernels):
        own = [check for check in checks if check.backend == label]
        worst = max(own, key=lambda check: check.severity if check.severity == check.severity else float("inf"))
        _row(table, label, str(len(own)), f"{worst.stage} ({worst.where})", worst, all(check.passed for check in own))
    console.print(table)


def _kernels(report: dict[str, Any], checks: list[Check], console: Console) -> None:
    table = Table(title="Each kernel against its plain form", title_justify="left")
    for column in ("backend", "kernel", "worst of", "error", "tolerance", ""):
        table.add_column(column, justify="right" if column in ("error", "tolerance") else "left")
    for worst in worst_by_stage(check for check in checks if check.backend in report["devices"]):
        _row(table, worst.backend, worst.stage, worst.where, worst, worst.passed)
    console.print(table)


def _row(table: Table, one: str, two: str, three: str, worst: Check, passed: bool) -> None:
    verdict = "[green]pass[/]" if passed else "[red]FAIL[/]"
    table.add_row(*map(escape, (one, two, three)), f"{worst.error:.1e}", f"{worst.tolerance:.1e}", verdict)


def _speed(report: dict[str, Any], console: Console) -> None:
    if not report["speed"]:
        return
    table = Table(title="Speed", title_justify="left")
    for column in ("backend", "matrix products, GFLOP/s", "reading memory, GB/s", "calibration of plan"):
        table.add_column(column)
    for backend, found in report["speed"].items():
        peaks = ", ".join(f"{dtype} {gflops:,.0f}" for dtype, gflops in found["gflops"].items())
        table.add_row(backend, peaks, f"{found['gb_per_s']:.1f}", escape(_calibration(report["calibrations"].get(backend))))
    console.print(table)
    if report["calibration_file"]:
        console.print(f"stored in {report['calibration_file']}; --forget removes it", markup=False, highlight=False)


def _calibration(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not made"
    memory = "not counted" if found["activations"] is None else f"{found['activations']:.2f} of the estimate"
    names = {"language": found["language_share"], "attention": found["attention_share"], "tower": found["tower_share"]}
    shares = ", ".join(f"{name} {share:.2f}" for name, share in names.items() if share is not None)
    unpacked = "" if found["unpacked"] is None else f", {found['unpacked']:.2f} billion packed weights a second"
    return f"{shares} of the peak in {found['dtype']}{unpacked}, activations {memory}"
