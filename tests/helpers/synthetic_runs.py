"""Synthetic runs for tests: a model that answers well, less well, or the same with one planted difference."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.runs.prediction import Prediction
from eval.runs.run import Run
from eval.runs.writer import RunWriter
from mlx_phi3v.task import Task

CATEGORIES = ("BAGS", "COATS", "SCARVES", "SHIRTS", "SHOES")
WORDS = ("wool", "cotton", "check", "striped", "long", "short", "leather", "silk", "plain", "hooded")
END = 32007
TASK = Task()

Row = dict[str, Any]  # a line of predictions.jsonl, before it becomes a Prediction: tests plant differences in it


def digest(*parts: object) -> str:
    """A hex fingerprint of anything."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def manifest(task: Task = TASK, **changes: Any) -> dict[str, Any]:
    """A manifest; `changes` replace top-level keys, mappings merge."""
    base: dict[str, Any] = {
        "backend": "torch",
        "label": "reference",
        "hashes": {
            name: digest(name) for name in ("base", "adapter", "catalogue", "split", "template", "tokenizer", "decoding")
        },
        "settings": {"dtype": "float32", "num_crops": 4, "max_new_tokens": 64, "temperature": 0.0, "image_size": 336},
        "task": task.to_dict(),
        "catalogue": "catalogue",
        "split": "test",
        "limit": None,
        "shard": None,
        "code": {"version": "0.1.0", "commit": "abc", "dirty": False},
        "packages": {"numpy": "2.0"},
        "device": {"name": "cpu", "chip": "test", "dtype": "float32", "blas": "openblas", "tf32": False, "threads": 2},
        "batch_size": 8,
        "start": "2026-01-01T00:00:00+00:00",
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, Mapping) and isinstance(base.get(key), dict) else value
    return base


def tokenize(text: str) -> list[int]:
    """One token a character, and the end token."""
    return [ord(character) for character in text] + [END]


def answer(row: Row, text: str, *, task: Task = TASK, finish: str = "end", logprob: float = -0.01) -> Row:
    """Give a row this answer: tokens, log-probabilities and parsed fields follow from the text."""
    tokens = tokenize(text)
    if finish == "length":
        tokens = tokens[:-1]
    row |= {
        "predicted": Prediction("", {}, task.parse(text, truncated=finish == "length")).to_dict()["predicted"],
        "text": text,
        "token_ids": tokens,
        "logprobs": [logprob] * len(tokens),
        "top_k": [[] for _ in tokens],  # at -0.01 nats the chosen token leaves all others at most -4.6
        "finish": finish,
    }
    return row


def make_rows(n: int = 200, *, seed: int = 0, right: float = 0.9, task: Task = TASK, image: str | None = None) -> list[Row]:
    """`n` rows answered by a model whose category is right with probability `right` and whose prices are about 8 % off."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        category = str(generator.choice(CATEGORIES))
        title = " ".join(str(word) for word in generator.choice(WORDS, size=3, replace=False))
        price = round(float(np.exp(generator.normal(5, 0.6))), 2)
        values: dict[str, Any] = {"title": title, "category3_code": category, "full_price": price}
        guess = dict(values)
        if generator.random() > right:
            guess["category3_code"] = str(generator.choice([c for c in CATEGORIES if c != category]))
        guess["full_price"] = round(price * float(np.exp(generator.normal(0, 0.08))), 2)
        if generator.random() < 0.3:
            guess["title"] = title.replace(title.split()[0], "knitted")
        true = {item.name: values[item.name] for item in task.fields}
        row: Row = {"id": f"p{i:05d}", "true": true, "seconds": 0.05, "image": image}
        row["fingerprints"] = {stage: digest(stage, i) for stage in ("file", "pixels", "pixel_values", "input_ids")}
        rows.append(answer(row, task.answer(guess), task=task))
    return rows


def write_run(folder: Path, rows: list[Row], *, finish: bool = True, raw: bool = False, **changes: Any) -> Run:
    """Write rows as a run folder and load it. `raw` writes lines as they are (repeats too)."""
    written = manifest(**{"split_rows": len({row["id"] for row in rows}), **changes})
    with RunWriter.open(folder, written) as writer:
        for row in rows:
            if raw:
                writer.done.discard(row["id"])
            writer.write(Prediction.from_dict(row))
        if finish:
            writer.finish(seconds=1.0)
    return Run.load(folder)


def changed(rows: list[Row], which: Callable[[int, Row], bool], change: Callable[[Row], Any]) -> list[Row]:
    """A copy of the rows, with `change` applied to those that `which` picks."""
    copies = copy.deepcopy(rows)
    for i, row in enumerate(copies):
        if which(i, row):
            change(row)
    return copies
