"""How often a guard is raised on two runs that are equally good, and how often on planted losses.

    python scripts/measure/simulate_guards.py [--replicates 2000] [--seed 0]

Both runs answer the same rows with errors that are partly shared and exchangeable: titles, categories, prices with heavy
tails (slips by 10 and 100), answers that do not parse. The figures are in docs/comparison.md; a shorter run is a test.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from eval.compare.guards import stand_guard
from eval.compare.paired_runs import PairedRuns
from eval.compare.verdict import gated_metrics
from eval.runs.columns import FieldColumn
from mlx_phi3v.task import FieldKind, Task

GATED = gated_metrics(Task(), None)
CLASSES = 10


def draw(generator: np.random.Generator, n: int, apart: float, *, shift: float = 0.0, title_loss: float = 0.0) -> PairedRuns:
    """Two runs on `n` rows that differ on a share `apart` of them; B loses `shift` (log price) and titles."""
    names = np.array([f"c{i}" for i in range(CLASSES)], dtype=object)
    weights = 1 / np.arange(1, CLASSES + 1)
    true = generator.choice(names, n, p=weights / weights.sum())
    price = np.exp(generator.normal(5, 0.6, n))
    common = _answers(generator, true, price, names)
    fields: list[dict[str, FieldColumn]] = []
    for side in range(2):
        own, differs = _answers(generator, true, price, names), generator.random(n) < apart
        category, guess, ratio, failed = [np.where(differs, y, x) for x, y in zip(common, own, strict=True)]
        guess = guess * np.exp(shift * side)
        lost = generator.random(n) < title_loss * side
        fields.append(_columns(true, price, category, guess, np.where(lost, 0.0, ratio), failed.astype(bool)))
    products = SimpleNamespace(clusters=None)
    made = SimpleNamespace(fields_a=fields[0], fields_b=fields[1], category=true.tolist(), products=products)
    return cast(PairedRuns, made)


def _answers(generator: np.random.Generator, true: Any, price: Any, names: Any) -> tuple[Any, Any, Any, Any]:
    n = len(true)
    category = np.where(generator.random(n) < 0.9, true, generator.choice(names, n))
    error = generator.normal(0, 0.05, n) + np.where(generator.random(n) < 0.3, generator.standard_t(3, n) * 0.4, 0.0)
    error += np.where(generator.random(n) < 0.01, np.log(10) * generator.choice([-2, -1, 1, 2], n), 0.0)
    ratio = np.clip(generator.normal(0.95, 0.1, n), 0, 1)
    return category, price * np.exp(error), ratio, generator.random(n) < 0.01


def _columns(true: Any, price: Any, category: Any, guess: Any, ratio: Any, failed: Any) -> dict[str, FieldColumn]:
    everything, zero = np.ones(len(true), dtype=bool), np.zeros(len(true))
    status: Any = failed.astype(np.int8)
    none = np.where(failed, None, category)
    kinds: list[tuple[str, FieldKind, Any, Any, Any]] = [
        ("title", "text", true, none, np.where(failed, 0.0, ratio)),
        ("category3_code", "category", true, none, zero),
        ("full_price", "number", price, np.where(failed, np.nan, guess), zero),
    ]
    return {
        name: FieldColumn(name, kind, truth, answer, everything, status, likeness == 1, likeness)
        for name, kind, truth, answer, likeness in kinds
    }


def raised(n: int, apart: float, *, replicates: int, seed: int, **loss: float) -> float:
    """Share of comparisons in which any guard is raised."""
    generator = np.random.default_rng(seed)
    found = (stand_guard(draw(generator, n, apart, **loss), GATED)[0].raised for _ in range(replicates))
    return sum(found) / replicates


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.replicates} replicates: share in which any guard is raised")
    print(f"{'':<44}{'rows':>6}{'apart':>8}{'raised':>9}")
    cases: list[tuple[str, dict[str, float]]] = [
        ("equally good", {}),
        ("prices 1 % up (the narrowest margin)", {"shift": float(np.log(1.01))}),
        ("prices 5 % up", {"shift": float(np.log(1.05))}),
        ("titles lost on 20 % of the rows", {"title_loss": 0.2}),
    ]
    for title, loss in cases:
        for n in (50, 150, 500, 2000):
            for apart in (0.02, 0.1, 0.5, 1.0):
                share = raised(n, apart, replicates=options.replicates, seed=options.seed, **loss)
                print(f"{title:<44}{n:>6}{apart:>8.0%}{share:>9.1%}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
