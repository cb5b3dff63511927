"""Compare two finished runs: the verdict, every measure with its interval, and why answers part.

    python -m eval.compare RUN_A RUN_B                            two runs
    python -m eval.compare RUN --baseline baseline.jsonl          a regression gate: only a loss counts
    python -m eval.compare RUN_A RUN_B RUN_C --reference RUN_A    a table over any number of runs

Needs neither torch nor mlx. Exit status: 0 EQUIVALENT (or NO WORSE), 1 DIFFERENT (or WORSE), 3 INCONCLUSIVE,
2 wrong usage or runs that must not be compared. A table exits 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mlx_phi3v.cli import add_arguments, build, option, read_yaml
from mlx_phi3v.errors import UserError, run_cli

from ..report import page, terminal
from ..runs.run import Run
from . import table, trace
from .compare_runs import RESAMPLES, compare_runs
from .comparison import Comparison

__all__ = ["Comparison", "compare_runs", "main"]


@dataclass(frozen=True)
class CompareSettings:
    """Flags of `python -m eval.compare`."""

    margin_category: float | None = option(2.0, help="points of category accuracy within which two runs are the same")
    margin_price: float | None = option(2.0, help="points of price within 10 % within which two runs are the same")
    margin_title: float | None = option(None, help="also hold the title ratio within so many points")
    margin_parse: float | None = option(None, help="also hold answers that do not parse within so many points")
    allow: tuple[str, ...] = option((), help="differences between the runs to accept, by the name the refusal gives")
    baseline: Path | None = option(None, help="a stored baseline (eval.score RUN --baseline FILE) to hold one run against")
    floor: tuple[Path, ...] = option((), help="the reference (RUN_A) run again, for the noise floor")
    reference: Path | None = option(None, help="of a table: the run the others are compared with (default: the first)")
    trace: bool = option(False, help="report each run's tokens scored under the other's model")
    near_tie: float | None = option(None, help="widest margin called a near-tie, in nats (default: 0.01 in fp32, else 0.25)")
    html: Path | None = option(None, help="write the whole report as one self-contained page")
    json: bool = option(False, help="print the whole report as JSON instead of tables")
    rows: int = option(10, help="how many of the worst rows the terminal lists")
    seed: int = option(0, help="seed of the bootstrap")
    resamples: int = option(RESAMPLES, help="bootstrap resamples")

    @property
    def margins(self) -> dict[str, float | None]:
        """Metric name -> margin as a share; None takes a measure out of the verdict."""
        points = {"accuracy": self.margin_category, "within_10": self.margin_price}
        more = {"ratio": self.margin_title, "parse_failures": self.margin_parse}
        points |= {name: value for name, value in more.items() if value is not None}
        return {name: None if value is None else value / 100 for name, value in points.items()}


def read_settings(argv: Sequence[str] | None) -> tuple[list[Path], CompareSettings]:
    """The runs and the settings; argparse exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders written by eval.predict or eval.bring")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings as YAML; flags win over it")
    add_arguments(parser, CompareSettings)
    flags = vars(parser.parse_args(argv))
    runs, config = flags.pop("runs"), flags.pop("config")
    values = {key.replace("-", "_"): item for key, item in (read_yaml(config) if config else {}).items()}
    settings = build(CompareSettings, {**values, **flags}, f"--config {config}" if config else "the flags")
    if settings.baseline and len(runs) != 1:
        parser.error("--baseline takes exactly one RUN")
    if not settings.baseline and len(runs) < 2:
        parser.error("give two runs to compare, or one and --baseline FILE")
    if len(runs) > 2 and (settings.html or settings.floor or settings.trace):
        parser.error("--html, --floor and --trace are for two runs")
    return runs, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Exit status 1 means DIFFERENT here, so every error leaves with 2."""
    try:
        return _run(*read_settings(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return 2


def _run(paths: list[Path], settings: CompareSettings) -> int:
    console = Console(highlight=False)
    if len(paths) > 2:
        return _table(console, paths, settings)
    runs = [Run.load(path) for path in ([settings.baseline] if settings.baseline else []) + paths]
    with progress() as say:
        comparison = compare_runs(
            *runs,
            margins=settings.margins,
            seed=settings.seed,
            resamples=settings.resamples,
            allow=settings.allow,
            near_tie=settings.near_tie,
            floor=[Run.load(path) for path in settings.floor],
            one_sided=settings.baseline is not None,
            say=say,
        )
        if settings.trace:
            say("reading the traces")
            comparison.trace = trace.trace_directions(comparison.data)
        if settings.html:
            say("drawing the page")
            page.write_page(settings.html, comparison)
    _write(console, settings, comparison.to_dict(), lambda: terminal.print_comparison(console, comparison, rows=settings.rows))
    return comparison.exit_status


def _table(console: Console, paths: list[Path], settings: CompareSettings) -> int:
    runs = [Run.load(path) for path in paths]
    reference = Run.load(settings.reference) if settings.reference else runs[0]
    with progress() as say:
        found = table.tabulate(
            runs,
            reference,
            margins=settings.margins,
            allow=settings.allow,
            seed=settings.seed,
            resamples=settings.resamples,
            say=say,
        )
    _write(console, settings, found.to_dict(), lambda: terminal.print_rows(console, found))
    return 0


def _write(console: Console, settings: CompareSettings, value: object, show: Callable[[], None]) -> None:
    if settings.json:
        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    show()
    if settings.html:
        console.print(f"wrote {settings.html}", markup=False, style="dim", soft_wrap=True)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being done; nothing off a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(stage)


if __name__ == "__main__":
    run_cli(main)
