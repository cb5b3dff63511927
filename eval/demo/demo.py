"""The whole job on the built-in model and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mlx_phi3v.backend import BACKENDS
from mlx_phi3v.cli import option
from mlx_phi3v.progress import result

from ..compare.compare_runs import compare_runs
from ..report import page, terminal
from ..runs.run import Run

# The recipe for the tiny model, used by both backends alike; found by trying, see docs/results.md.
RECIPE = Path(__file__).parent / "sample.yaml"


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the built-in job."""

    output: Path = option(Path("runs/sample"), help="folder for everything the job makes")
    products: int = option(4600, help="products in the sample catalogue, of which 100 validate and --test are held out")
    test: int = option(500, help="products never trained on")
    seed: int = option(1, help="seed of the catalogue")
    model: str = option("tiny", help="model to start from")
    backends: tuple[str, ...] = option(BACKENDS, help="backends to tune on", choices=BACKENDS)
    recipe: Path = option(RECIPE, help="training settings as YAML, see mlx_phi3v.train --help")
    json: bool = option(False, help="results as JSON lines on stdout")


def conclude(config: DemoConfig, console: Console) -> int:
    """Print the table of all runs and the verdict, and write the page."""
    out = config.output
    runs = [Run.load(out / f"{b}-{stage}") for stage in ("base", "tuned") for b in config.backends]
    if not config.json:
        console.rule("Base and tuned, on products never trained on")
        terminal.print_table(console, runs, runs[-1])
    if len(config.backends) == 1:
        result(config.json, event="done", output=str(out))
        return 0
    # Two trainings make two adapters and two bases on disk: those differences are what is being compared.
    comparison = compare_runs(runs[-2], runs[-1], allow=("adapter", "base"))
    page.write_page(out / "report.html", comparison)
    if not config.json:
        console.rule(f"{runs[-2].label} against {runs[-1].label}")
        terminal.print_comparison(console, comparison)
        console.print(f"The same as a page: {out / 'report.html'}", highlight=False)
    result(config.json, event="done", output=str(out), verdict=comparison.verdict)
    return 0
