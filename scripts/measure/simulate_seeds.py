"""How often the verdict errs where rows come in clusters, or trainings differ by their seed, and what it asks for.

    python scripts/measure/simulate_seeds.py clusters [--replicates 4000]
    python scripts/measure/simulate_seeds.py seeds [--replicates 4000]
    python scripts/measure/simulate_seeds.py power [--replicates 4000]

Every cell draws synthetic systems whose true difference is known. "false EQUIVALENT": the 90 % interval is inside the
margin of 2 points, the true difference being the margin. "false difference": equality is rejected at 5 %, there being
none. "false beyond": a difference of more than the margin is called at 5 %, the true difference being the margin. The figures
are in docs/comparison.md; a shorter run is a test.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from eval.compare.power import PerTraining, power_same, rows_to_decide
from eval.compare.statistics import EffectiveProportion, Floats, Ints, PairedProportion, clustered, normal_quantile, seeded

MARGIN = 0.02
# Of the table over seeds: discordance, rows, share of products on which the trainings of a side agree.
_KINDS = ((0.01, 500, 0.5), (0.05, 500, 0.0), (0.05, 500, 0.5), (0.2, 500, 0.5), (0.05, 5000, 0.5))
_MANY = 90_000  # rows that stand for a population
_PILOTS = 200
_MOVING = 0.5  # share of clusters whose rows move as one


@dataclass(frozen=True)
class Cell:
    """A population: `rows` rows in clusters of `size`, and `seeds` trainings a side.

    discordance: share of rows that only one side has right. deviation: of a training's accuracy from seed to seed, a
    share. shared: share of products on which all trainings of a side answer alike.
    """

    rows: int
    size: int
    discordance: float
    seeds: int = 1
    deviation: float = 0.0
    shared: float = 0.0

    @property
    def clusters(self) -> Ints:
        """The cluster of each row [rows]."""
        return np.arange(self.rows) // self.size

    def draw(self, generator: np.random.Generator, difference: float) -> tuple[Floats, Floats]:
        """Which answers of A and of B are right, each [seeds, rows], the true difference being `difference`."""
        moves = self.deviation * generator.normal(size=(2, self.seeds, 1))
        apart = difference + moves[1] - moves[0]
        discordant = np.maximum(max(self.discordance, abs(difference)), np.abs(apart))
        only_a, only_b = (discordant - apart) / 2, (discordant + apart) / 2
        place = self._uniform(generator, self.seeds)
        if self.shared:
            keep = (generator.random(self.clusters[-1] + 1) < self.shared)[self.clusters]
            place = np.where(keep, self._uniform(generator, 1), place)
        right = place < 0.5 + only_a + moves.mean(axis=0)  # where A and B agree: both right or both wrong
        a = np.where(place < only_a, True, np.where(place > 1 - only_b, False, right))
        b = np.where(place < only_a, False, np.where(place > 1 - only_b, True, right))
        return a.astype(np.float64), b.astype(np.float64)

    def _uniform(self, generator: np.random.Generator, count: int) -> Floats:
        alone = generator.random((count, self.rows))
        if self.size == 1:
            return alone
        groups = int(self.clusters[-1]) + 1
        together = generator.random((count, groups))[:, self.clusters]
        moving = (generator.random(groups) < _MOVING)[self.clusters]
        return np.where(moving, together, alone)


@dataclass(frozen=True)
class PairedT:
    """A paired t over the trainings' differences, products being no source of variation: for comparison."""

    means: Floats

    @property
    def estimate(self) -> float:
        """B minus A."""
        return float(self.means.mean())

    def interval(self, z: float) -> tuple[float, float]:
        """At the level of normal quantile z."""
        error = self.means.std(ddof=1) / math.sqrt(len(self.means))
        reach = float(stats.t.ppf(stats.norm.cdf(z), len(self.means) - 1)) * error
        return self.estimate - reach, self.estimate + reach

    def differs(self, alpha: float) -> bool:
        """Whether the interval leaves out zero."""
        low, high = self.interval(normal_quantile(1 - alpha))
        return low > 0 or high < 0

    def beyond(self, margin: float) -> tuple[float, float]:
        """One-sided p-values that the difference is not below -margin, and not above it."""
        return self._above(-self.estimate - margin), self._above(self.estimate - margin)

    def _above(self, gap: float) -> float:
        error = float(self.means.std(ddof=1)) / math.sqrt(len(self.means))
        return float(stats.t.sf(gap / error, len(self.means) - 1)) if error else float(gap <= 0)


def rows_alone(a: Floats, b: Floats, clusters: Ints) -> PairedProportion:
    """Every row for itself: for comparison."""
    return PairedProportion(int((a > b).sum()), int((b > a).sum()), a.size)


Method = Callable[[Floats, Floats, Ints], PairedProportion | EffectiveProportion | PairedT]
METHODS: dict[str, dict[str, Method]] = {
    "clusters": {"rows alone": rows_alone, "clusters": lambda a, b, clusters: clustered(a[0], b[0], clusters)},
    "seeds": {
        "paired t": lambda a, b, clusters: PairedT((b - a).mean(axis=1)),
        "paired": lambda a, b, clusters: seeded(a, b, clusters, paired=True),
        "unpaired": lambda a, b, clusters: seeded(a, b, clusters, paired=False),
    },
}  # fmt: skip


def cells(what: str) -> Iterator[Cell]:
    """The populations of a table."""
    if what == "clusters":
        for size, discordance, rows in itertools.product((1, 3, 10), (0.01, 0.05, 0.2), (50, 200, 1000, 5000)):
            yield Cell(rows, size, discordance)
        return
    for deviation, seeds in itertools.product((0.0, 0.005, 0.01, 0.015), (3, 5, 8, 12)):
        for discordance, rows, shared in (
            (0.01, 500, 0.5),
            (0.05, 500, 0.0),
            (0.05, 500, 0.5),
            (0.2, 500, 0.5),
            (0.05, 5000, 0.5),
        ):
            yield Cell(rows, 1, discordance, seeds, deviation, shared)
        yield Cell(1500, 3, 0.05, seeds, deviation, 0.5)


Rates = tuple[float, float, float]


def error_rates(cell: Cell, methods: dict[str, Method], *, replicates: int, seed: int) -> dict[str, Rates]:
    """Of each method: (false EQUIVALENT at the margin, false difference, false beyond) over `replicates` comparisons."""
    generator = np.random.default_rng(seed)
    z = normal_quantile(0.9)
    counts = {name: np.zeros(3) for name in methods}
    for _ in range(replicates):
        at_margin, equal = cell.draw(generator, -MARGIN), cell.draw(generator, 0.0)
        for name, method in methods.items():
            found = method(*at_margin, cell.clusters)
            low, high = found.interval(z)
            different = method(*equal, cell.clusters).differs(0.05)
            counts[name] += (low > -MARGIN and high < MARGIN, different, min(found.beyond(MARGIN)) < 0.05)
    return {name: tuple((count / replicates).tolist()) for name, count in counts.items()}


def _same(found: EffectiveProportion) -> bool:
    low, high = found.interval(normal_quantile(0.9))
    return low > -MARGIN and high < MARGIN


def power_of_rows(cell: Cell, *, replicates: int, seed: int) -> tuple[int, float, float]:
    """(rows that are reported to show two equal systems as EQUIVALENT in 80 % of cases, in how many they do, in how many
    they are foreseen to)."""
    generator = np.random.default_rng(seed)
    many = replace(cell, rows=_MANY // cell.size * cell.size)
    side_a, side_b = many.draw(generator, 0.0)
    found = clustered(side_a[0], side_b[0], many.clusters)
    half = cell.discordance / 2 * found.n  # the true rates; how rows move together is taken from the many drawn
    typical = replace(found, only_a=half, only_b=half).at(30)
    rows, _ = rows_to_decide([typical], [MARGIN], [0])
    assert rows is not None
    asked = replace(cell, rows=-(-rows // cell.size) * cell.size)
    drawn = (asked.draw(generator, 0.0) for _ in range(replicates))
    enough = float(np.mean([_same(clustered(a[0], b[0], asked.clusters)) for a, b in drawn]))
    return asked.rows, enough, power_same(typical, MARGIN, asked.rows)


def power_of_trainings(cell: Cell, *, replicates: int, seed: int) -> tuple[int, float, float] | None:
    """(trainings a side that are reported to suffice, paired, how often they do, how often they are foreseen to); None where
    none below 100 is."""
    generator = np.random.default_rng(seed)
    pilots = [seeded(*cell.draw(generator, 0.0), cell.clusters, paired=True) for _ in range(_PILOTS)]
    rows, seeds, residual = (
        float(np.mean([getattr(pilot.spread, name) for pilot in pilots])) for name in ("rows", "seeds", "residual")
    )
    half = float(np.mean([pilot.only_a for pilot in pilots]))
    spread = replace(pilots[0].spread, rows=rows, seeds=seeds, residual=residual, caution=None)
    typical = replace(pilots[0], only_a=half, only_b=half, spread=spread)
    pair = PerTraining(typical.with_trainings(2))
    trainings, _ = rows_to_decide([pair], [MARGIN], [0])
    if trainings is None or trainings > 100:
        return None
    asked = replace(cell, seeds=trainings)
    drawn = (asked.draw(generator, 0.0) for _ in range(replicates))
    enough = float(np.mean([_same(seeded(a, b, asked.clusters, paired=True)) for a, b in drawn]))
    return trainings, enough, power_same(pair, MARGIN, trainings)


def print_power(replicates: int, seed: int) -> None:
    """Print how often the rows and the trainings that are asked for are enough."""
    print(f"{replicates} replicates; a share near 80 % is known to ±{196 * math.sqrt(0.16 / replicates):.1f} points")
    for size, discordance in itertools.product((1, 3, 10), (0.01, 0.05, 0.2)):
        rows, share, foreseen = power_of_rows(Cell(0, size, discordance), replicates=replicates, seed=seed)
        asked = f"{rows:>6} rows asked for, enough {share:>6.1%}, foreseen {foreseen:>6.1%}"
        print(f"clusters of {size:>2} discordant {discordance:>4.0%}: {asked}", flush=True)
    for deviation, rows in itertools.product((0.005, 0.01, 0.015), (1000, 3000)):
        found = power_of_trainings(Cell(rows, 1, 0.05, 5, deviation, 0.5), replicates=replicates, seed=seed)
        asked = "no number of trainings"
        if found is not None:
            asked = f"{found[0]:>3} trainings asked for, enough {found[1]:>6.1%}, foreseen {found[2]:>6.1%}"
        print(f"rows {rows:>5} deviation {100 * deviation:3.1f}: {asked}", flush=True)


def main() -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*sorted(METHODS), "power"])
    parser.add_argument("--replicates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.table == "power":
        print_power(options.replicates, options.seed)
        return 0
    methods = METHODS[options.table]
    spread = 100 * stats.norm.ppf(0.975) * math.sqrt(0.05 * 0.95 / options.replicates)
    print(f"{options.replicates} replicates; a share near 5 % is known to ±{spread:.1f} points")
    print(f"false EQUIVALENT, false difference, false beyond by {', by '.join(methods)}\n")
    for cell in cells(options.table):
        found = error_rates(cell, methods, replicates=options.replicates, seed=options.seed)
        kind = (
            f"seeds {cell.seeds:>2} deviation {100 * cell.deviation:3.1f} shared {cell.shared:.1f} " if cell.seeds > 1 else ""
        )
        shown = "".join(f"{a:>9.1%}{b:>7.1%}{c:>7.1%}" for a, b, c in found.values())
        rows = f"rows {cell.rows:>5} clusters of {cell.size:>2} discordant {cell.discordance:>4.0%}"
        print((kind if cell.seeds > 1 else "") + rows + shown, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
