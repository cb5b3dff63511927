"""The end of the built-in job: the table of all runs, and the verdict on the two tuned ones."""

from __future__ import annotations

from rich.console import Console

from mlx_phi3v.progress import result

from ..compare.compare_runs import compare_runs
from ..report import page, terminal
from ..runs.run import Run
from .settings import DemoConfig


def print_final_report(config: DemoConfig, console: Console) -> int:
    """Print the table of all runs and the verdict, and write the page; 0."""
    runs = [Run.load(config.run(backend, stage)) for stage in ("base", "tuned") for backend in config.backends]
    if not config.json:
        console.rule("Base and tuned models on the test split")
        terminal.print_table(console, runs, runs[-1])
    if len(config.backends) == 1:
        result(config.json, event="done", output=str(config.output))
        return 0
    # Two trainings made two adapters, of two base models on disk: these are under test.
    comparison = compare_runs(runs[-2], runs[-1], allow=("adapter", "base"))
    page.write_page(config.report, comparison)
    if not config.json:
        console.rule(f"{runs[-2].label} against {runs[-1].label}")
        terminal.print_comparison(console, comparison)
        console.print(f"The same as a page: {config.report}", highlight=False, markup=False)
    result(config.json, event="done", output=str(config.output), verdict=comparison.verdict)
    return 0
