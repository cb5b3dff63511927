"""Check the statistics on synthetic systems whose true difference is known, many times over.

    python scripts/measure/simulate_statistics.py [--replicates 4000] [--seed 0]

Prints how often each verdict comes out, how often intervals hold the true difference, and how often the number of rows
that `eval.compare` reports decides the comparison. The figures are in docs/comparison.md; a shorter run is a test.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from eval.compare.metrics import METRICS
from eval.compare.power import rows_needed, rows_to_decide
from eval.compare.statistics import (
    MacroF1,
    Mean,
    Median,
    PairedMean,
    PairedProportion,
    Statistic,
    bootstrap,
    normal_quantile,
    percentile_interval,
    tango,
)
from eval.compare.verdict import decide, judge

MARGIN = 0.02
GATES = (("category", METRICS["category"][0]), ("price", METRICS["number"][2]))


@dataclass(frozen=True)
class Pair:
    """Two systems on one measure: chances that only A, only B is right (the rest is both or neither)."""

    only_a: float
    only_b: float

    @property
    def difference(self) -> float:
        """True B - A."""
        return self.only_b - self.only_a

    def draw(self, generator: np.random.Generator, n: int) -> PairedProportion:
        """The discordant counts of n rows."""
        only_a, only_b, _ = generator.multinomial(n, [self.only_a, self.only_b, 1 - self.only_a - self.only_b])
        return PairedProportion(int(only_a), int(only_b), n)


def verdicts(category: Pair, price: Pair, n: int, *, replicates: int, seed: int) -> dict[str, float]:
    """Share of each verdict over `replicates` comparisons of n rows, both measures gated."""
    generator = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(replicates):
        gates = [
            judge(name, metric, MARGIN, pair.draw(generator, n), gates=2, project=False)
            for (name, metric), pair in zip(GATES, (category, price))
        ]
        counts[decide(gates, project=False).verdict] += 1
    return {name: counts[name] / replicates for name in ("EQUIVALENT", "WORSE", "BETTER", "INCONCLUSIVE")}


def score_coverage(pair: Pair, n: int, *, level: float, replicates: int, seed: int) -> float:
    """How often the score interval holds the true difference."""
    generator = np.random.default_rng(seed)
    z = normal_quantile(level)
    held = 0
    for _ in range(replicates):
        drawn = pair.draw(generator, n)
        low, high = tango(drawn.only_a, drawn.only_b, n, z)
        held += low <= pair.difference <= high
    return held / replicates


def bootstrap_coverage(
    n: int, *, level: float, replicates: int, resamples: int, seed: int, population: int = 200_000
) -> dict[str, float]:
    """How often bootstrap intervals hold the true difference, for a mean, a median and a macro-F1.

    A and B answer the same rows with errors that are partly shared; the truth is that of a large population.
    """
    generator = np.random.default_rng(seed)
    truth = {name: b.point() - a.point() for name, (a, b) in _systems(generator, population).items()}
    held: Counter[str] = Counter()
    for replicate in range(replicates):
        pairs = _systems(generator, n)
        flat: list[Statistic] = [side for pair in pairs.values() for side in pair]
        samples = bootstrap(flat, n, seed=replicate, resamples=resamples)
        for i, name in enumerate(pairs):
            low, high = percentile_interval(samples[:, 2 * i + 1] - samples[:, 2 * i], level)
            held[name] += low <= truth[name] <= high
    return {name: held[name] / replicates for name in truth}


def _systems(generator: np.random.Generator, n: int) -> dict[str, tuple[Statistic, Statistic]]:
    shared = generator.normal(size=n)
    errors = [np.abs(np.exp(0.1 * (shared + generator.normal(size=n)) + shift) - 1) for shift in (0.0, 0.02)]
    ratios = [1 / (1 + np.exp(-(1.5 + shared + generator.normal(size=n) + shift))) for shift in (0.0, 0.1)]
    true = generator.choice(5, size=n, p=[0.4, 0.25, 0.15, 0.12, 0.08])
    predicted = [np.where(generator.random(n) < right, true, generator.integers(0, 5, n)) for right in (0.9, 0.87)]
    everything = np.ones(n, dtype=bool)
    return {
        "median price error": (Median(errors[0], everything), Median(errors[1], everything)),
        "mean price error": (Mean(errors[0], everything), Mean(errors[1], everything)),
        "title ratio": (Mean(ratios[0], everything), Mean(ratios[1], everything)),
        "macro-F1": (MacroF1(true, predicted[0], 5), MacroF1(true, predicted[1], 5)),
    }


def power_at_stated_rows(pair: Pair, *, what: Literal["same", "beyond"], replicates: int, seed: int) -> tuple[int, float]:
    """(rows reported to suffice at these true rates, how often they do). `what` is "same" or "beyond"."""
    start = 50
    rates = PairedProportion(pair.only_a * start, pair.only_b * start, start)
    n = rows_needed(rates, MARGIN)[0 if what == "same" else 2]
    if n is None:
        raise ValueError(f"{pair} is never found {what}")
    generator = np.random.default_rng(seed)
    metric = GATES[0][1]
    states = Counter(
        judge("category", metric, MARGIN, pair.draw(generator, n), gates=1, project=False).state for _ in range(replicates)
    )
    found = states["same"] if what == "same" else states["worse"] + states["better"]
    return n, found / replicates


def power_of_all(pairs: Sequence[Pair], *, replicates: int, seed: int) -> tuple[int, str, float]:
    """(rows reported to decide all measures together, the verdict they are for, how often it comes out)."""
    seen = [PairedProportion(pair.only_a * 100, pair.only_b * 100, 100) for pair in pairs]
    same, beyond = rows_to_decide(seen, [MARGIN] * len(pairs), [0] * len(pairs))
    n = min(rows for rows in (same, beyond) if rows is not None)
    found = verdicts(pairs[0], pairs[1], n, replicates=replicates, seed=seed)
    if n == same:
        return n, "EQUIVALENT", found["EQUIVALENT"]
    return n, "WORSE or BETTER", found["WORSE"] + found["BETTER"]


def title_verdicts(n: int, *, kind: str, replicates: int, seed: int) -> dict[str, float]:
    """How often the title ratio is called same, and worse, at a true loss of the margin.

    kind: "unparsed", the loss is of answers that do not parse; "mixed", half of it is of titles that changed a little.
    """
    generator = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for _ in range(replicates):
        lost = np.where(generator.random(n) < MARGIN / 0.95, -np.clip(generator.normal(0.95, 0.05, n), 0, 1), 0.0)
        if kind == "mixed":
            lost = np.where(generator.random(n) < 0.5, lost, 0.0)
            moved = generator.random(n) < 0.3
            lost = np.clip(np.where(moved, lost + generator.normal(-MARGIN / 0.6, 0.15, n), lost), -1, 1)
        gate = judge("title", METRICS["text"][1], MARGIN, PairedMean.of(lost), gates=1, project=False)
        counts[gate.state] += 1
    return {name: counts[name] / replicates for name in ("same", "worse")}


def main() -> int:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common = {"replicates": options.replicates, "seed": options.seed}
    error = 100 * stats.norm.ppf(0.975) * np.sqrt(0.05 * 0.95 / options.replicates)
    print(f"{options.replicates} replicates; a share near 5 % is known to ±{error:.1f} points\n")
    print(f"{'true difference':<34}{'rows':>7}{'EQUIVALENT':>12}{'WORSE':>9}{'BETTER':>9}{'INCONCL.':>10}")
    for title, category, price in (
        ("none, 2 % of rows discordant", Pair(0.01, 0.01), Pair(0.01, 0.01)),
        ("none, 6 % and 20 % discordant", Pair(0.03, 0.03), Pair(0.1, 0.1)),
        ("category at the margin (2 points)", Pair(0.04, 0.02), Pair(0.03, 0.03)),
        ("both at the margin", Pair(0.04, 0.02), Pair(0.06, 0.04)),
        ("category 5 points worse", Pair(0.065, 0.015), Pair(0.03, 0.03)),
    ):
        for n in (200, 1000, 3000):
            found = verdicts(category, price, n, **common)
            shares = [found[name] for name in ("EQUIVALENT", "WORSE", "BETTER", "INCONCLUSIVE")]
            print(f"{title:<34}{n:>7}" + "".join(f"{share:>{w}.1%}" for share, w in zip(shares, (12, 9, 9, 10), strict=True)))
    print("\nscore interval, 95 % and 90 %")
    for pair in (Pair(0.01, 0.01), Pair(0.03, 0.03), Pair(0.04, 0.02), Pair(0.1, 0.05), Pair(0.2, 0.2)):
        for n in (200, 1000):
            held = [score_coverage(pair, n, level=level, **common) for level in (0.95, 0.9)]
            print(f"  only A {pair.only_a:.0%}, only B {pair.only_b:.0%}, {n} rows: {held[0]:.1%} {held[1]:.1%}")
    print("\nbootstrap interval, 95 %")
    for n in (200, 1000):
        found = bootstrap_coverage(n, level=0.95, replicates=options.replicates // 4, resamples=500, seed=options.seed)
        print(f"  {n} rows: " + ", ".join(f"{name} {share:.1%}" for name, share in found.items()))
    print("\nthe number of rows asked for, 80 % power")
    asked: list[tuple[Pair, Literal["same", "beyond"]]] = [
        (Pair(0.02, 0.02), "same"),
        (Pair(0.05, 0.05), "same"),
        (Pair(0.03, 0.02), "same"),
        (Pair(0.06, 0.02), "beyond"),
        (Pair(0.1, 0.05), "beyond"),
    ]
    for pair, what in asked:
        n, power = power_at_stated_rows(pair, what=what, **common)
        print(f"  only A {pair.only_a:.0%}, only B {pair.only_b:.0%}: {n} rows, found {what} {power:.1%}")
    print_more(options.replicates, options.seed)
    return 0


def print_more(replicates: int, seed: int) -> None:
    """Print what is about both measures together, and about the title ratio."""
    print("\nthe number of rows asked for to decide both measures, 80 % power")
    for first, second in (
        (Pair(0.01, 0.01), Pair(0.01, 0.01)),
        (Pair(0.02, 0.02), Pair(0.05, 0.05)),
        (Pair(0.03, 0.02), Pair(0.03, 0.03)),
        (Pair(0.06, 0.02), Pair(0.02, 0.02)),
        (Pair(0.08, 0.03), Pair(0.07, 0.03)),
    ):
        n, verdict, power = power_of_all([first, second], replicates=replicates, seed=seed)
        rates = " and ".join(f"{pair.only_a:.0%}/{pair.only_b:.0%}" for pair in (first, second))
        print(f"  only A/only B {rates}: {n} rows, {verdict} {power:.1%}")
    print("\ntitle ratio, true loss of the margin: called same, and worse")
    for n in (50, 150, 200, 500, 1500):
        lines = []
        for kind in ("unparsed", "mixed"):
            found = title_verdicts(n, kind=kind, replicates=replicates, seed=seed)
            lines.append(f"{kind} {found['same']:.1%} {found['worse']:.1%}")
        print(f"  {n} rows: {', '.join(lines)}", flush=True)
    print("\nboth measures at the margin: called WORSE or BETTER")
    for n in (50, 150, 200, 500, 1000, 3000):
        shares = []
        for discordant in (0.03, 0.05, 0.2):
            pair = Pair(discordant / 2 + MARGIN / 2, discordant / 2 - MARGIN / 2)
            found = verdicts(pair, pair, n, replicates=replicates, seed=seed)
            shares.append(f"{discordant:.0%} discordant {found['WORSE'] + found['BETTER']:.1%}")
        print(f"  {n} rows: {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
