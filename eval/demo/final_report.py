"""The end of the built-in job: what was shown, what was not, and what to do next. The page holds the rest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from mlx_phi3v.commands import as_typed
from mlx_phi3v.loggers.choice import chosen
from mlx_phi3v.progress import result
from mlx_phi3v.text import printable

from ..compare.compare_runs import compare_runs
from ..compare.comparison import Comparison
from ..compare.score_run import score_run
from ..report import page, phrases, terminal
from ..report.training_run import find_reported
from ..runs.run import Run
from .first_answer import compare_first
from .same_computation import SameComputation, same_computation
from .settings import DemoConfig

_WIDTH = 80
_COLOURS = {"SHOWN": "green", "NOT SHOWN": "red", "NOT SETTLED": "yellow"}


def print_same_computation(config: DemoConfig, console: Console) -> dict[str, Any]:
    """Print the screen of claim (a), and write the page; what the last JSON line tells."""
    if not config.other:
        if not config.json:
            terminal.print_scores(console, score_run(Run.load(config.tuned_run(config.tuned_on))))
        return {}
    runs = [Run.load(config.tuned_run(backend)) for backend in (config.tuned_on, config.other)]
    comparison = compare_runs(runs[0], runs[1], allow=("base",), floor=[Run.load(config.tuned_floor_run)])
    page.write_page(config.report, comparison)
    reported = find_reported(config.report_to, config.adapter if chosen(config.report_to) else None, runs)
    if reported:
        reported.add(comparison, lambda of: terminal.print_comparison(of, comparison), config.report, as_json=config.json)
    found = same_computation(comparison)
    if not config.json:
        more = () if config.seeds else (_not_shown(config), _next(config))
        for block in (_claim(config, comparison, found), *_learned(config, comparison), *chain(*more)):
            if isinstance(block, str):  # a command is not wrapped, so that it can be copied
                console.print(Text(f"  {as_typed(block, 'mlx_phi3v.demo')}"), soft_wrap=True)
            else:
                console.print(block, width=min(_WIDTH, console.width))
    told = {
        "claim": "same computation", "state": found.state, "verdict": comparison.verdict, "same_tokens": found.same,
        "rows": found.rows, "mean_gap": found.mean, "largest_gap": found.largest,
    }  # fmt: skip
    result(config.json, event="claim", **told)
    return told


def _claim(config: DemoConfig, comparison: Comparison, found: SameComputation) -> Panel:
    """The claim and whether it is shown."""
    colour = _COLOURS[found.state]
    lines = [
        Text(f"SAME COMPUTATION: {found.state}", f"bold {colour}"),
        Text(
            f"One adapter, trained on {config.tuned_on}, answered {found.rows:,} products on {config.tuned_on} and on "
            f"{config.other}."
        ),
        Text(f"· {printable(comparison.first_line)}"),
        Text(f"· {found.tokens_line}"),
        Text(f"· {found.gap_line(config.tuned_on)}"),
        *(Text(as_typed(line, "mlx_phi3v.demo"), "yellow") for line in _advice(config, comparison, found)),
    ]
    return Panel(Group(*lines), border_style=colour)


def _advice(config: DemoConfig, comparison: Comparison, found: SameComputation) -> Iterator[str]:
    """What to do where the claim is not shown."""
    if found.state == "NOT SHOWN":
        if comparison.diverged:
            row = comparison.diverged[0]
            yield f"Row {printable(row.id)} differs most, cause: {row.cause}. The page lists all of them."
        yield f"The first layer that diverges: python -m eval.parity --model {config.model} --image PHOTO"
    elif comparison.verdict == "NOT MEANINGFUL":
        yield "The model has learned too little for a verdict: give more --products, or more epochs in --recipe."
    elif needed := phrases.more_rows(comparison):
        yield f"{found.rows:,} products are too few. {needed} Give --test and another --output."


def _learned(config: DemoConfig, comparison: Comparison) -> Iterator[Text]:
    """The deciding measures of the base model, the tuned one and the simple predictor."""
    base = {(row.field, row.metric): row for row in compare_first(config).metrics}
    yield _heading(f"What the model learned from {config.training_rows:,} other products")
    for check in comparison.simple:
        if check.side == "A":
            before = phrases.figure(base[check.field, check.metric], base[check.field, check.metric].a)
            beats = "" if check.beats else ", which it is not shown to beat"
            yield Text(
                f"{check.field} {check.label}: {before} before, {phrases.value('share', check.value)} now "
                f"({check.predictor}: {phrases.value('share', check.floor)}{beats})"
            )


def _not_shown(config: DemoConfig) -> Iterator[Text | str]:
    """The other claim, and the commands for it."""
    yield _heading("What this does not show")
    yield Text(
        f"That a training on {config.other} is as good as one on {config.tuned_on}. Two trainings differ by chance, also with "
        "the same arithmetic, so it takes several on each backend. This goes on from here:"
    )
    yield f"{config.command} --seeds 5"
    yield Text("How many trainings and products such a verdict needs, before the work:")
    yield "python -m eval.plan --help"


def _next(config: DemoConfig) -> Iterator[Text | str]:
    """Where the rest is, and how to go on."""
    backend = config.tuned_on
    yield _heading("Next")
    yield Text(f"The whole report, as a page: {config.report}")
    yield Text("Ask about one photo:")
    model = f"--backend {backend} --model {config.model_for(backend)} --adapter {config.adapter}"
    yield f"python -m mlx_phi3v.generate {model} --image PHOTO"
    yield Text("Your own photos: the README's recipe, and docs/data.md")


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
