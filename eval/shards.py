"""The shards of one run, checked and made one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx_phi3v.errors import UserError
from mlx_phi3v.progress import note

from .compare.comparable import manifest_differences
from .runs.made_from import KEY, is_made, made_from, said
from .runs.prediction import Prediction
from .runs.run import Run
from .runs.writer import RunWriter

# In what one run's shards may differ: where and when they ran.
_MACHINE_KEYS = ("code", "packages", "device", "batch_size", "shard")
_SHOWN = 5  # missing shards


def merge_runs(shards: Sequence[Run], output: Path, *, partial: bool = False) -> Run:
    """Write all shards' rows as one run.

    Raises UserError where shards differ in data, prompt or decoding, one is missing, given twice or unfinished, or a
    row is in two of them. `output` appears whole or not at all.
    """
    first = shards[0]
    for shard in shards[1:]:
        differing = [
            item
            for item in manifest_differences(first.manifest, shard.manifest)
            if item.name.split(".")[0] not in _MACHINE_KEYS
        ]
        if differing:
            raise UserError(f"{first.path} and {shard.path} are no shards of one run: {'; '.join(map(str, differing))}")
    complete = _check_shards(shards, partial)
    entry = made_from("eval.merge", [shard.path for shard in shards], partial=partial)
    if is_made(output, entry):
        note(said(output))
        return Run.load(output)
    manifest = {**first.manifest, "shard": None, "merged": [_origin(shard) for shard in shards], KEY: entry}
    came_from: dict[str, str] = {}
    with RunWriter.create(output, manifest) as writer:
        for shard, number, row in _in_order(shards):
            if row.id in came_from:
                raise UserError(
                    f"{shard.place(number)} is the row {row.id!r}, which {came_from[row.id]} is too; give each row once"
                )
            came_from[row.id] = shard.place(number)
            writer.write(row)
        seconds = sum(float(shard.manifest.get("seconds") or 0.0) for shard in shards)
        writer.finish(seconds=seconds, complete=complete)
    return Run.load(output)


def _in_order(shards: Sequence[Run]) -> Iterator[tuple[Run, int, Prediction]]:
    """(shard, line, row) in the order of the split, where all shards are whole: shard i/n has every n-th row from i on."""
    ordered = sorted(shards, key=lambda shard: tuple(shard.manifest["shard"]))
    for rows in itertools.zip_longest(*(shard.numbered() for shard in ordered)):
        for shard, found in zip(ordered, rows):
            if found is not None:
                yield shard, found[0], found[2]


def _check_shards(shards: Sequence[Run], partial: bool) -> bool:
    """Whether all shards are there and finished. Raises UserError where not and `partial` is false."""
    numbers: list[tuple[int, int]] = []
    for shard in shards:
        if shard.manifest.get("shard") is None:
            raise UserError(f"{shard.path} is no shard; make shards with eval.predict --shard i/n")
        i, n = shard.manifest["shard"]
        numbers.append((i, n))
    of = {n for _, n in numbers}
    if len(of) != 1:
        raise UserError(f"shards {', '.join(f'{i}/{n}' for i, n in numbers)} differ in n; give those of one n")
    n = of.pop()
    given: set[int] = set()
    for i, _ in numbers:
        if i in given:
            raise UserError(f"shard {i}/{n} is given twice; give each once")
        given.add(i)
    lacking = n - len(given)
    first = (i for i in range(1, n + 1) if i not in given)
    problems = [f"shard {i}/{n} is missing" for i, _ in zip(first, range(min(lacking, _SHOWN)))]
    problems += [f"{lacking - _SHOWN} more are missing"] if lacking > _SHOWN else []
    problems += [f"{shard.path} is unfinished" for shard in shards if not shard.finished]
    if problems and not partial:
        raise UserError(f"{'; '.join(problems)}; finish them, or give --partial")
    return not problems


def _origin(shard: Run) -> dict[str, Any]:
    keys = ("label", "shard", "device", "batch_size", "code", "packages", "start", "end", "rows", "seconds")
    return {key: shard.manifest.get(key) for key in keys}
