"""A comparison as its flags ask for it: of two runs, of two ways to train, or a table, on the terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console

from mlx_phi3v.progress import stages

from ..report import page, sets_terminal, terminal
from ..report.page import sets_page
from ..report.training_run import find_reported
from ..runs.run import Run
from . import cross_scores, run_table
from .comparable import check_allowed
from .compare_runs import compare_runs
from .compare_sets import compare_sets
from .settings import CompareConfig
from .training_sets import allowed_names


def compare(config: CompareConfig) -> int:
    """Compare, and show what is found; the exit status. Raises UserError for runs that must not be compared."""
    console = Console(highlight=False)
    if config.a:
        return _sets(console, config)
    if len(config.runs) > 2:
        return _table(console, config)
    runs = [Run.load(path) for path in ([config.baseline] if config.baseline else []) + list(config.runs)]
    check_allowed(config.allow, runs)
    reported = find_reported(config.report_to, config.report_run, runs)
    with stages() as say:
        comparison = compare_runs(
            *runs,
            margins=config.margins,
            seed=config.seed,
            resamples=config.resamples,
            allow=config.allow,
            near_tie=config.near_tie,
            floor=[Run.load(path) for path in config.floor],
            one_sided=config.one_sided or config.baseline is not None,
            guards=config.guards == "on",
            cluster=config.cluster,
            say=say,
        )
        if config.trace:
            say("reading the traces")
            comparison.trace = cross_scores.cross_score(comparison.data)
        if config.html:
            say("drawing the page")
            page.write_page(config.html, comparison)

    def show(console: Console) -> None:
        terminal.print_comparison(console, comparison, rows=config.rows)

    _write(console, config, comparison.to_dict(), show)
    if reported:
        reported.add(comparison, show, config.html, as_json=config.json)
    return comparison.exit_status


def _sets(console: Console, config: CompareConfig) -> int:
    """Compare two ways to train."""
    runs_a, runs_b = ([Run.load(path) for path in paths] for paths in (config.a, config.b))
    check_allowed(config.allow, [*runs_a, *runs_b], allowed_names(runs_a, runs_b))
    reported = find_reported(config.report_to, config.report_run, [])
    with stages() as say:
        found = compare_sets(
            runs_a,
            runs_b,
            margins=config.margins,
            seed=config.seed,
            resamples=config.resamples,
            allow=config.allow,
            one_sided=config.one_sided,
            guards=config.guards == "on",
            cluster=config.cluster,
            say=say,
        )
        if config.html:
            say("drawing the page")
            sets_page.write_sets_page(config.html, found)

    def show(console: Console) -> None:
        sets_terminal.print_sets(console, found)

    _write(console, config, found.to_dict(), show)
    if reported:
        reported.add(found, show, config.html, as_json=config.json)
    return found.exit_status


def _table(console: Console, config: CompareConfig) -> int:
    runs = [Run.load(path) for path in config.runs]
    reference = Run.load(config.reference) if config.reference else runs[0]
    check_allowed(config.allow, [reference, *runs])
    with stages() as say:
        found = run_table.tabulate(
            runs,
            reference,
            margins=config.margins,
            allow=config.allow,
            seed=config.seed,
            resamples=config.resamples,
            cluster=config.cluster,
            one_sided=config.one_sided,
            say=say,
        )
    _write(console, config, found.to_dict(), lambda console: terminal.print_rows(console, found))
    return 0


def _write(console: Console, config: CompareConfig, value: object, show: Callable[[Console], None]) -> None:
    if config.json:
        print(json.dumps(value, indent=2))
        return
    show(console)
    if config.html:
        console.print(f"wrote {config.html}", markup=False, style="dim", soft_wrap=True)
