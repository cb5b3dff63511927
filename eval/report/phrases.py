"""Figures and sentences that the terminal report and the page share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..compare import statistics
from ..compare.comparable import RunDifference
from ..compare.comparison import Comparison
from ..compare.cross_scores import CrossScores
from ..compare.diverged_rows import DivergedRow
from ..compare.divergence import GAP, PIXELS
from ..compare.guards import Guard
from ..compare.judged import Judged
from ..compare.noise import Floor, Noise
from ..compare.paired_measures import PairedMeasure
from ..compare.trainings import Trainings
from ..compare.verdict import Gate
from ..compare.wording import guard_words


def value(unit: str, number: float | None) -> str:
    """A measure's value: "93.5 %", or "+0.012" for a log error; a dash where there is none."""
    if number is None or math.isnan(number):
        return "–"
    return f"{100 * number:.1f} %" if unit == "share" else f"{number:+.3f}"


def figure(row: PairedMeasure, number: float | None) -> str:
    """A row's value, in its unit."""
    return value(row.unit, number)


def gap(row: PairedMeasure, number: float | None) -> str:
    """A difference: in points for shares."""
    if number is None or math.isnan(number):
        return "–"
    return f"{100 * number:+.2f}" if row.unit == "share" else f"{number:+.4f}"


def interval(row: PairedMeasure) -> str:
    """An interval of differences: "-1.20 to +0.40"."""
    low, high = row.interval
    return "–" if low is None or high is None else f"{gap(row, low)} to {gap(row, high)}"


def share(count: int, of: int) -> str:
    """ "98.0 % of 200", with the Wilson interval; "not recorded" where no row can be compared."""
    if not of:
        return "not recorded"
    low, high = statistics.wilson(count, of)
    return f"{100 * count / of:.2f} % ({100 * low:.1f} to {100 * high:.1f}) of {of:,}"


def headline(comparison: Comparison) -> str:
    """What the verdict says of the two runs, in one sentence."""
    a, b = comparison.a.label, comparison.b.label
    if a == b:
        a, b = f"A ({a})", f"B ({b})"
    if comparison.data.run_a.path.is_file():
        a = f"the baseline {comparison.a.label}"
    sentences = {
        "EQUIVALENT": f"{b} is as good as {a}, within the margins",
        "WORSE": f"{b} is worse than {a}, by more than a margin",
        "BETTER": f"{b} is better than {a}, by more than a margin",
        "INCONCLUSIVE": _inconclusive(comparison, a, b),
        "NO WORSE": f"{b} is no worse than {a}, within the margins",
        "NOT MEANINGFUL": "a run that does not beat a simple predictor says nothing about the other",
    }
    return sentences[comparison.verdict]


def _inconclusive(comparison: Comparison, a: str, b: str) -> str:
    if unknown := [gate.field for gate in comparison.gates if not gate.rows]:
        return f"no row has a true value of {' or '.join(unknown)}: whether {b} is as good as {a} cannot be said"
    if any(gate.state == "open" and gate.differs for gate in comparison.gates):
        return f"{b} differs from {a}, but whether by more than the margin is not settled"
    if comparison.absent.counted:
        return f"{comparison.absent.counted:,} rows are absent: whether {b} is as good as {a} hangs on them"
    few = f"{comparison.products.count()} {'is' if comparison.joined == 1 else 'are'} too few"
    return f"{few} to show whether {b} is as good as {a}"


def more_rows(comparison: Comparison) -> str | None:
    """How many more rows would decide an INCONCLUSIVE; None for another verdict."""
    if comparison.verdict != "INCONCLUSIVE":
        return None
    more = comparison.decision.more_rows
    if more is None:
        if not all(gate.rows for gate in comparison.gates):
            return "Rows with true values would decide it: add them to the catalogue."
        return "No number of rows would decide it at these rates. Set a wider margin."
    absent = comparison.absent.counted
    if absent and more <= absent:
        return f"Answer the {absent:,} absent rows first."
    rows = f"{more:,} more row{'' if more == 1 else 's'}{_products_of(comparison, more)}"
    return (
        f"About {rows} would decide it (80 % power for all measures together, if the rates seen here are the "
        "true ones). Ask for them at once: each further look is a further chance of a false answer."
    )


def _products_of(comparison: Comparison, rows: int) -> str:
    """ " (of 120 more products)" where rows are not products."""
    found = comparison.products
    return "" if found.clusters is None else f" (of {max(1, round(rows * found.products / found.rows)):,} more products)"


def gate_figures(gate: Gate) -> str:
    """A gate's difference and the interval that was judged."""
    if not gate.rows:
        return "no row has a true value"
    level, (low, high) = judged_interval(gate)
    test = "" if gate.p_value is None else f", p = {gate.p_value:.2g} that nothing differs"
    return (
        f"{100 * gate.difference:+.2f} points ({level:.3g} % interval {100 * low:+.2f} to {100 * high:+.2f}), "
        f"margin {100 * gate.margin:g}{test}"
    )


def judged_interval(gate: Gate) -> tuple[float, tuple[float, float]]:
    """(level in per cent, interval) that a gate's state rests on: what is held inside the margin, or outside it."""
    return (100 * gate.beyond_level, gate.beyond) if gate.state in ("worse", "better") else (90.0, gate.interval)


def judged_levels(comparison: Judged) -> str:
    """The levels of the intervals that are judged: "90 %"."""
    levels = sorted({judged_interval(gate)[0] for gate in comparison.gates})
    return " or ".join(f"{level:.3g} %" for level in levels)


def gate_state(gate: Gate) -> str:
    """What was found of a gate, in a few words."""
    if gate.state == "open":
        return "differs, size not settled" if gate.differs else "undecided"
    return {"same": "within the margin", "worse": "worse by more than the margin", "better": "better by more than the margin"}[
        gate.state
    ]


def guard_lines(comparison: Judged) -> list[str]:
    """The raised guards, one sentence each."""
    return [
        f"guard: {guard_words(guard)}, shown to be worse by more than {_guard_margin(guard)} (p = {guard.p_adjusted:.2g}, "
        f"{guard.rows:,} rows)"
        for guard in comparison.raised
    ]


def _guard_margin(guard: Guard) -> str:
    return f"{100 * math.expm1(guard.margin):g} %" if guard.unit == "log" else f"{100 * guard.margin:g} points"


def differences(comparison: Comparison) -> tuple[list[RunDifference], list[RunDifference]]:
    """(differences that had to be allowed, differences between the systems under test)."""
    found = comparison.differences
    return [item for item in found if item.refuses], [item for item in found if not item.refuses]


def warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before trusting the figures."""
    allowed, _ = differences(comparison)
    differing = [line for line in inputs(comparison) if line.startswith(_DIFFER)]
    return [*comparison.notes, *(f"allowed difference: {item}" for item in allowed), *differing]


_DIFFER = "INPUTS DIFFER"
STAGE_NAMES = {
    "file": "photo files",
    "pixels": "decoded pixels",
    "pixel_values": "model's pixel values",
    "input_ids": "prompt's token ids",
}


def inputs(comparison: Comparison) -> list[str]:
    """What the fingerprints show: one sentence that names the stages in which inputs differ, or that they are identical."""
    known = {stage: counts for stage, counts in comparison.inputs.items() if counts[1]}
    if not known:
        return ["Input fingerprints were not recorded. Inputs cannot be compared."]
    differing = {stage: counts for stage, counts in known.items() if counts[0]}
    if not differing:
        return [f"Inputs are identical on all {max(of for _, of in known.values()):,} rows ({_names(list(known))})."]
    first = next(iter(differing))
    lines = [f"{STAGE_NAMES[stage]} differ on {count:,} of {of:,} rows" for stage, (count, of) in differing.items()]
    return [f"{_DIFFER}, first in the {STAGE_NAMES[first]}: {'; '.join(lines)}."]


def _names(stages: Sequence[str]) -> str:
    return ", ".join(STAGE_NAMES[stage] for stage in stages)


def noise(comparison: Comparison) -> list[str]:
    """The gap between the two runs, and its multiple of each noise floor."""
    lines = [f"A against B: {_noise(comparison.noise)}"]
    for item in comparison.floors:
        lines.append(f"noise floor {item.label}: {_noise(item.noise)}; {_times(item)}")
    return lines


def _noise(item: Noise) -> str:
    answers = f"{item.diverged:,} of {item.rows:,} answers diverge"
    if item.mean is None or item.p99 is None or item.largest is None:
        return f"{answers}; log-probabilities not recorded"
    return f"{answers}; log-probability gap mean {item.mean:.2g}, 99 % {item.p99:.2g}, largest {item.largest:.2g} nats"


def _times(item: Floor) -> str:
    if item.times_mean is None and item.times_diverged is None:
        return "the floor is zero, so there is no multiple"
    multiples = []
    if item.times_mean is not None:
        multiples.append(f"the gap is {item.times_mean:.3g} times the floor in log-probability")
    if item.times_diverged is not None:
        multiples.append(f"{item.times_diverged:.3g} times in diverging answers")
    return ", ".join(multiples)


def cause_notes(comparison: Comparison) -> list[str]:
    """What the causes rest on: the noise that a near-tie is judged by, and what was not tested."""
    item, notes = comparison.logit_noise, []
    if not comparison.diverged:
        return []
    if item.median is None:
        notes.append(f"A near-tie is a margin of at most {item.near_tie:.3g} nats between the two tokens, by the dtype.")
    elif item.rounding:
        notes.append(
            f"Where the answers still agree, the logits differ by {item.median:.2g} nats in the median "
            f"({item.tokens:,} tokens): no more than rounding (up to {item.most:g}). "
            f"A near-tie is a margin of at most {item.near_tie:.3g} nats."
        )
    else:
        notes.append(
            f"Where the answers still agree, the logits already differ by {item.median:.2g} nats in the median "
            f"({item.tokens:,} tokens): more than rounding (up to {item.most:g}). No divergence is called a near-tie."
        )
    masked = sum({PIXELS, GAP} <= set(row.causes) for row in comparison.diverged)
    pixels = comparison.all_cause_counts.get(PIXELS, 0)
    if masked:
        notes.append(
            f"In {masked:,} of these rows other pixels and a log-probability gap meet. Which of them explains a row is not "
            f"tested: pixels explain at most {pixels:,} rows. Answer again from the same pixels to tell."
        )
    return notes


def outcome(row: DivergedRow) -> str:
    """Which runs are right, field by field where they differ: "category3_code only A, full_price both wrong"."""
    return outcome_words(row.outcome, row.fields)


def outcome_words(whole: str, fields: Mapping[str, str]) -> str:
    """`whole` where all fields say the same, else each field."""
    return whole if len(set(fields.values())) < 2 else ", ".join(f"{name} {said}" for name, said in fields.items())


def training_lines(found: Trainings) -> list[str]:
    """Both trainings' settings that differ, those of the most weight that are alike, and where their losses ended."""
    lines = [str(item) for item in found.differences] or ["no setting differs"]
    if found.same:
        lines.append("the same: " + ", ".join(f"{name} {value}" for name, value in found.same.items()))
    for name, a, b in (("loss", found.a.loss, found.b.loss), ("validation loss", found.a.val_loss, found.b.val_loss)):
        if a and b:
            ends = [f"{curve[-1][1]:.4g} at step {curve[-1][0]:,}" for curve in (a, b)]
            lines.append(f"last {name}: {ends[0]} | {ends[1]}")
    return lines


def trace_line(item: CrossScores) -> str:
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
    """Rows a second of both runs."""
    runs = [("A", comparison.a), ("B", comparison.b)]
    return ", ".join(
        f"{name} {run.rows_per_second:.3g} rows a second" if run.rows_per_second else f"{name} not timed" for name, run in runs
    )


def method(comparison: Comparison) -> str:
    """How the intervals were made."""
    by = "row" if comparison.products.clusters is None else "row, by product"
    return (
        f"95 % intervals, paired by {by}: score (Tango) for shares, bootstrap ({comparison.resamples:,} resamples, "
        f"seed {comparison.seed}) for the rest. Differences are B - A, shares in points. {comparison.products.sentence()}"
    )
