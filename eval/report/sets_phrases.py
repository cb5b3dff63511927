"""Sentences on two ways to train, which the terminal report and the page share."""

from __future__ import annotations

from ..compare.compare_sets import SetComparison, Settle
from ..compare.set_measures import SeedSpread

_SHOWN = 60  # characters of one setting


def headline(found: SetComparison) -> str:
    """What the verdict says of the two ways to train, in one sentence."""
    a, b = f"A ({found.a.label})", f"B ({found.b.label})"
    sentences = {
        "EQUIVALENT": f"{b} trains as good an adapter as {a}, within the margins",
        "WORSE": f"{b} trains worse adapters than {a}, by more than a margin",
        "BETTER": f"{b} trains better adapters than {a}, by more than a margin",
        "NO WORSE": f"{b} trains no worse an adapter than {a}, within the margins",
        "INCONCLUSIVE": _inconclusive(found, a, b),
        "NOT MEANINGFUL": "a side that does not beat a simple predictor says nothing about the other",
    }
    return sentences[found.verdict]


def _inconclusive(found: SetComparison, a: str, b: str) -> str:
    if any(gate.state == "open" and gate.differs for gate in found.gates):
        return f"{b} and {a} differ, but whether by more than the margin is not settled"
    return f"{found.claim.scope} on {found.products.count()} are too few to show whether {b} trains as well as {a}"


def settle_line(found: SetComparison) -> str | None:
    """What would settle an INCONCLUSIVE; None for another verdict."""
    item = found.settle
    if item is None:
        return None
    absent = found.absent.counted
    if absent and item.rows is not None and item.rows <= absent:
        return f"Answer the {absent:,} absent rows first."
    power = "80 % power for all measures together, if the rates seen here are the true ones"
    rows = f"{item.rows:,} more rows" if item.rows is not None else None
    seeds = None if item.trainings is None else _seeds(item.trainings)
    if rows and seeds:
        return f"About {seeds}, or {rows}, would settle it ({power})."
    if seeds:
        fewer = item.both is not None and item.trainings is not None and 2 * item.both[1] <= item.trainings
        also = f", or {_both(item)}," if fewer else ""
        return f"About {seeds}{also} would settle it ({power}). More rows alone would not: the seeds differ too much."
    if rows:
        return f"About {rows} would settle it ({power}). More seeds alone would not: the rows are too few."
    if item.both:
        return f"About {_both(item)} would settle it ({power})."
    return "No number of seeds or rows would settle it at these rates. Set a wider margin."


def _both(item: Settle) -> str:
    assert item.both
    return f"{_seeds(item.both[1])} and {item.both[0]:,} more rows together"


def _seeds(count: int) -> str:
    return f"{count:,} more {'seed' if count == 1 else 'seeds'} a side"


def spread_line(item: SeedSpread) -> str:
    """How a measure varies from seed to seed, and what the error of its mean difference consists of."""
    paired = "" if item.deviation_difference is None else f", B - A {100 * item.deviation_difference:.2f}"
    return (
        f"{item.field} {item.label}: deviation from seed to seed A {100 * item.deviation_a:.2f}, B {100 * item.deviation_b:.2f}"
        f"{paired} points; standard error of B - A {100 * item.error_products:.2f} by rows and {100 * item.error_seeds:.2f} "
        f"by seeds ({item.df:.3g} degrees of freedom)"
    )


def seed_rows(found: SetComparison) -> list[list[str]]:
    """One line for each training: its seed, then for every deciding measure A, B and, where paired, B - A."""
    lines = []
    for k in range(max(len(found.a.trainings), len(found.b.trainings))):
        seeds = [side.trainings[k].seed if k < len(side.trainings) else None for side in found.sets.sides]
        names = ["–" if seed is None else str(seed) for seed in seeds]
        line = [names[0] if found.paired else " | ".join(names)]
        for item in found.spreads:
            line += [f"{100 * side[k]:.2f}" if k < len(side) else "" for side in (item.a, item.b)]
            line.append(f"{100 * item.differences[k]:+.2f}" if found.paired else "")
        lines.append(line)
    return lines


def difference_lines(found: SetComparison) -> list[str]:
    """In what the two sides differ: the settings of their trainings, then their runs."""
    lines = [f"training {name}: {_short(a)} | {_short(b)}" for name, a, b in found.settings]
    hidden = ("adapter weights", "adapter")  # of any two trainings
    return [*lines, *(str(item) for item in found.sets.differences if item.name not in hidden)]


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def method(found: SetComparison) -> str:
    """How the intervals were made."""
    pairs = "paired by seed" if found.paired else "sides independent (Welch)"
    return (
        f"Each figure is the mean of a side's trainings. Intervals at 95 %, {pairs}: score (Tango) at the effective number of "
        f"rows for shares, Student with a bootstrap of products for the rest. Differences are B - A, shares in points. "
        f"{found.products.sentence()}"
    )
