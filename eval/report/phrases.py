"""Figures and sentences that the terminal report and the page share, so that both say the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..compare import statistics
from ..compare.comparable import Difference
from ..compare.comparison import Comparison
from ..compare.measures import MetricRow
from ..compare.noise import Floor, Noise
from ..compare.trace import Direction


def printable(text: object) -> str:
    """Text safe for a terminal: a control character (an escape sequence in an answer) becomes a box."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def value(unit: str, number: float | None) -> str:
    """A measure's value: "93.5 %", or "+0.012" for a log error; a dash where there is none."""
    if number is None or math.isnan(number):
        return "–"
    return f"{100 * number:.1f} %" if unit == "share" else f"{number:+.3f}"


def figure(row: MetricRow, number: float | None) -> str:
    """A row's value, in its unit."""
    return value(row.unit, number)


def gap(row: MetricRow, number: float | None) -> str:
    """A difference: in points for shares."""
    if number is None or math.isnan(number):
        return "–"
    return f"{100 * number:+.2f}" if row.unit == "share" else f"{number:+.4f}"


def interval(row: MetricRow) -> str:
    """An interval of differences: "-1.20 to +0.40"."""
    low, high = row.interval
    return "–" if low is None or high is None else f"{gap(row, low)} to {gap(row, high)}"


def share(count: int, of: int) -> str:
    """ "98.0 % of 200", with the Wilson interval; a dash where nothing can tell."""
    if not of:
        return "not recorded"
    low, high = statistics.wilson(count, of)
    return f"{100 * count / of:.2f} % ({100 * low:.1f} to {100 * high:.1f}) of {of:,}"


def headline(comparison: Comparison) -> str:
    """The verdict in one sentence."""
    a, b = comparison.a.label, comparison.b.label
    said = {
        "EQUIVALENT": f"{b} is as good as {a}, within the margins",
        "DIFFERENT": f"{b} is not the same as {a}{_better(comparison)}",
        "INCONCLUSIVE": f"the {comparison.joined:,} rows can neither show that {b} is as good as {a} nor that it is not",
        "NO WORSE": f"{b} is no worse than the baseline {a}, within the margins",
        "WORSE": f"{b} is worse than the baseline {a}",
    }
    return said[comparison.verdict]


def _better(comparison: Comparison) -> str:
    signs = {math.copysign(1, gate.difference * gate.better) for gate in comparison.gates if gate.state == "different"}
    return "" if len(signs) != 1 else ": it is better" if signs == {1.0} else ": it is worse"


def settle(comparison: Comparison) -> str | None:
    """What would settle an INCONCLUSIVE."""
    if comparison.verdict != "INCONCLUSIVE":
        return None
    more = comparison.decision.more_rows
    if more is None:
        return "No number of rows would settle it at these rates; judge by a wider margin or not at all."
    return f"About {more:,} more rows would settle it (80 % power, if the rates seen here are the true ones)."


def differences(comparison: Comparison) -> tuple[list[Difference], list[Difference]]:
    """(differences that had to be allowed, differences between the systems under test)."""
    found = comparison.differences
    return [item for item in found if item.refuses], [item for item in found if not item.refuses]


def warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the figures."""
    allowed, _ = differences(comparison)
    differing = [line for line in inputs(comparison) if line.startswith(_DIFFER)]
    return [*comparison.notes, *(f"allowed difference: {item}" for item in allowed), *differing]


_DIFFER = "INPUTS DIFFER"
STAGE_NAMES = {
    "file": "picture file",
    "pixels": "decoded pixels",
    "pixel_values": "model's pixel values",
    "input_ids": "prompt's token ids",
}


def inputs(comparison: Comparison) -> list[str]:
    """What the fingerprints say of the inputs: one sentence for each stage in which rows differ, or one for none."""
    known = {stage: counts for stage, counts in comparison.inputs.items() if counts[1]}
    if not known:
        return ["Input fingerprints were not recorded: whether both saw the same cannot be told."]
    differing = {stage: counts for stage, counts in known.items() if counts[0]}
    if not differing:
        return [f"Inputs are identical on all {max(of for _, of in known.values()):,} rows ({_names(list(known))})."]
    first = next(iter(differing))
    lines = [f"{STAGE_NAMES[stage]} differ on {count:,} of {of:,} rows" for stage, (count, of) in differing.items()]
    return [f"{_DIFFER}, first in the {STAGE_NAMES[first]}: {'; '.join(lines)}."]


def _names(stages: Sequence[str]) -> str:
    return ", ".join(STAGE_NAMES[stage] for stage in stages)


def noise(comparison: Comparison) -> list[str]:
    """The distance of the two runs' numbers, and as a multiple of each noise floor."""
    lines = [f"A against B: {_noise(comparison.noise)}"]
    for item in comparison.floors:
        lines.append(f"noise floor {item.label}: {_noise(item.noise)}; {_times(item)}")
    return lines


def _noise(item: Noise) -> str:
    parted = f"{item.parted:,} of {item.rows:,} answers part"
    if item.mean is None or item.p99 is None or item.largest is None:
        return f"{parted}; log-probabilities not recorded"
    return f"{parted}; log-probability gap mean {item.mean:.2g}, 99 % {item.p99:.2g}, largest {item.largest:.2g} nats"


def _times(item: Floor) -> str:
    if item.times_mean is None and item.times_parted is None:
        return "the floor is zero, so there is no multiple"
    said = []
    if item.times_mean is not None:
        said.append(f"the gap is {item.times_mean:.3g} times it in log-probability")
    if item.times_parted is not None:
        said.append(f"{item.times_parted:.3g} times in answers that part")
    return ", ".join(said)


def trace_line(item: Direction) -> str:
    """One direction of a trace in a sentence."""
    kl = (
        ""
        if item.mean_kl is None or item.largest_kl is None
        else f"; KL mean {item.mean_kl:.2g}, largest {item.largest_kl:.2g}"
    )
    first = "" if item.median_divergence is None else f", at token {item.median_divergence:.0f} in the median"
    return (
        f"{item.scored}'s {item.tokens:,} tokens under {item.under}'s model: "
        f"mean log-probability gap {item.mean_gap:.2g} nats{kl}; "
        f"{item.under} would choose another token in {item.diverging:,} of {item.rows:,} rows{first}"
    )


def speed(comparison: Comparison) -> str:
    """Rows a second on both sides."""
    sides = [("A", comparison.a), ("B", comparison.b)]
    return ", ".join(
        f"{name} {side.rows_per_second:.3g} rows a second" if side.rows_per_second else f"{name} not timed"
        for name, side in sides
    )


def method(comparison: Comparison) -> str:
    """How the intervals were made."""
    return (
        f"Intervals 95 %, paired by product: score (Tango) for shares, bootstrap ({comparison.resamples:,} resamples, "
        f"seed {comparison.seed}) for the rest. Differences are B - A, shares in points."
    )
