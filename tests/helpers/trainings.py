"""Synthetic runs of several trainings, whose answers differ from seed to seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.runs.run import Run
from tests.helpers.synthetic_runs import CATEGORIES, Row, digest, make_rows, write_run

N = 1000


def base_rows(n: int = N) -> list[Row]:
    """Rows with exact answers, without tokens."""
    rows = []
    for row in make_rows(n, right=1.0):
        predicted = {name: {"value": value, "status": "ok"} for name, value in row["true"].items()}
        rows.append({"id": row["id"], "true": row["true"], "predicted": predicted})
    return rows


def miss(row: Row) -> Row:
    """The row with another category."""
    category = CATEGORIES[(CATEGORIES.index(row["true"]["category3_code"]) + 1) % len(CATEGORIES)]
    return {**row, "predicted": {**row["predicted"], "category3_code": {"value": category, "status": "ok"}}}


def train(folder: Path, side: str, losses: Sequence[float], *, rows: Sequence[Row], size: int = 1, **changes: Any) -> list[Run]:
    """A run for each of `losses`, the share of rows that this training gets wrong; rows in products of `size` move together."""
    found = []
    for seed, loss in enumerate(losses):
        generator = np.random.default_rng([seed, ord(side)])
        products = -(-len(rows) // size)
        wrong = set(generator.choice(products, round(loss * products), replace=False).tolist())
        answers = [miss(row) if i // size in wrong else row for i, row in enumerate(rows)]
        settings = {"seed": seed, "learning_rate": 1e-3, "data": f"/{side}/shop", **changes.get("training", {})}
        manifest = {"hashes": {"adapter": digest(side, seed)}, "label": f"{side}-{seed}", "training": settings}
        found.append(write_run(folder / f"{side}{seed}", answers, **{**changes, **manifest}))
    return found
