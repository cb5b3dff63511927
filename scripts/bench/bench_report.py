"""What a bench found, as a table or as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_FURTHER = ("tflop", "share_of_peak", "step_100", "step_1000", "data_wait")  # columns of some benches


def show(report: dict[str, Any], console: Console) -> None:
    """The table; ratios are to the first row."""
    results = report["results"]
    table = Table(title=f"{report['bench']}, medians", title_justify="left")
    further = [key for key in _FURTHER if any(key in figures for figures in results.values())]
    for name in ("", "s", "from", "to", "ratio", "peak GB", "ratio", *further):
        table.add_column(name, justify="left" if name == "" else "right")
    first = next(iter(results.values()))
    for name, figures in results.items():
        table.add_row(name, *_cells(figures, first), *(f"{figures[key]:.3f}" for key in further))
    console.print(table)
    for name, figures in results.items():
        if figures.get("job", {}).get("check") and figures["job"].get("cached"):
            same = "the same as" if figures["same_as_batch_1"] else "NOT the same as"
            console.print(f"{name}: tokens are {same} one row at a time")
    if "peak_gflops" in report:
        console.print(f"matrix-product peak, GFLOP/s: {report['peak_gflops']}")


def _cells(figures: dict[str, Any], first: dict[str, Any]) -> list[str]:
    seconds, base = statistics.median(figures["seconds"]), statistics.median(first["seconds"])
    spread = [f"{seconds:.2f}", f"{min(figures['seconds']):.2f}", f"{max(figures['seconds']):.2f}"]
    memory = [f"{figures['peak_gb']:.2f}", f"{figures['peak_gb'] / first['peak_gb']:.3f}"]
    return [*spread, f"{seconds / base:.3f}", *memory]


def show_operations(report: dict[str, Any], console: Console) -> None:
    """Milliseconds, forward and with the gradient."""
    table = Table(title="milliseconds, medians of five", title_justify="left")
    for name in ("", "MLX's own", "with gradient", "ours", "with gradient"):
        table.add_column(name, justify="left" if name == "" else "right")
    for name, pairs in report["results"].items():
        table.add_row(name, *(f"{value:.1f}" for pair in pairs for value in pair))
    console.print(table)


def plot_scaling(report: dict[str, Any], path: Path) -> None:
    """Seconds and peak memory of a step of one row against its tokens, as a plot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for cached, label in ((False, "tower runs, frozen"), (True, "features cached")):
        steps = [
            figures for figures in report["results"].values()
            if figures["job"].get("cached", False) == cached and figures["job"]["rows"] == 1
            and figures["job"]["model"] == next(iter(report["results"].values()))["job"]["model"]
        ]  # fmt: skip
        tokens = [max(figures["tokens"]) for figures in steps]
        time_axis.plot(tokens, [statistics.median(figures["seconds"]) for figures in steps], "o-", label=label)
        memory_axis.plot(tokens, [figures["peak_gb"] for figures in steps], "o-", label=label)
    for axis, title in ((time_axis, "seconds a step"), (memory_axis, "peak GB of the process")):
        axis.set(xlabel="tokens of the row (1, 4, 16 crops)", title=title, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
