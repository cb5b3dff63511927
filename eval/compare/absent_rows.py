"""Rows of the split that a comparison does not see: missing in one run or in both, behind a --limit, in other shards.

How many rows the split has is recorded in the manifest (`split_rows`). Runs of earlier versions lack it. There the
hash of the split shows whether the rows at hand are all of it; if they are not, their number is not recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..runs.manifest import split_hash
from ..runs.run import Run
from .paired_runs import PairedRuns
from .training_sets import TrainingSets


@dataclass(frozen=True)
class AbsentRows:
    """The rows that are not compared, by why. None: not recorded."""

    split_rows: int | None
    only_a: int
    only_b: int
    limited: int | None  # behind the --limit of both runs
    other_shards: int | None  # in shards that are not merged
    both: int | None  # otherwise missing in both runs
    counted: int  # how many count against "as good"
    limit: int | None
    shard: tuple[int, int] | None

    def sentences(self) -> list[str]:
        """What the first lines of a report say of them."""
        of = f" of the split's {self.split_rows:,} rows" if self.split_rows is not None else " rows"
        unknown = "" if self.split_rows is not None else "; how many rows the split has is not recorded"
        found = []
        if self.limit is not None and self.limited != 0:
            behind = "" if self.limited is None else f", {self.limited:,} are left out"
            found.append(f"--limit {self.limit}: the first {self.limit:,}{of} were asked{behind}{unknown}")
        if self.shard is not None:
            left = "" if self.other_shards is None else f"; {self.other_shards:,}{of} are in the others"
            found.append(f"shard {self.shard[0]}/{self.shard[1]} only, not merged{left}{unknown}")
        if self.both:
            found.append(f"{self.both:,}{of} are missing in both runs")
        if self.both is None and self.limit is None and self.shard is None:
            found.append("how many rows the split has is not recorded: rows missing in both runs would not be noticed")
        if self.counted > self.only_a + self.only_b and found:
            allow = " or ".join(f"--allow {name}" for name, on in (("limit", self.limit), ("shard", self.shard)) if on)
            found[-1] += "; what is absent counts as badly as it could turn out" + (f" ({allow}: it does not)" if allow else "")
        return found


def count_absent(data: PairedRuns, allow: Collection[str] = ()) -> AbsentRows:
    """The rows that are not compared; `limit` and `shard` in `allow` keep theirs from counting."""
    only_a, only_b = len(data.join.only_a), len(data.join.only_b)
    seen = len(data.join.ids) + only_a + only_b
    runs = (data.run_a, data.run_b)
    return _count(runs, _split_rows(data, seen), seen, only_a, only_b, allow)


def count_absent_of_sets(sets: TrainingSets, allow: Collection[str] = ()) -> AbsentRows:
    """The rows that some training lacks, and those that none has."""
    seen = len(sets.ids) + sets.only_a + sets.only_b
    recorded = [run.manifest.get("split_rows") for run in sets.first]
    known = [number for number in recorded if isinstance(number, int)]
    found = _count(sets.first, max(known, default=None), seen, sets.only_a, sets.only_b, allow)
    if found.both is None and sets.neither:
        return replace(found, both=sets.neither, counted=found.counted + sets.neither)
    return found


def _count(
    runs: tuple[Run, Run], total: int | None, seen: int, only_a: int, only_b: int, allow: Collection[str]
) -> AbsentRows:  # fmt: skip
    manifests = (runs[0].manifest, runs[1].manifest)
    limit, shard = _shared(manifests, "limit"), _shared(manifests, "shard")
    limited = other_shards = both = None
    if total is not None:
        asked = total if limit is None else min(limit, total)
        here = asked if shard is None else len(range(asked)[shard[0] - 1 :: shard[1]])
        limited, other_shards, both = total - asked, asked - here, max(0, here - seen)
    # A run whose rows were taken away later says itself how many it had.
    had = max((m["rows"] for m in manifests if m.get("end") and isinstance(m.get("rows"), int)), default=0)
    if had > seen + (both or 0):
        both = had - seen
    counted = only_a + only_b + (both or 0)
    counted += (limited or 0) if "limit" not in allow else 0
    counted += (other_shards or 0) if "shard" not in allow else 0
    return AbsentRows(total, only_a, only_b, limited, other_shards, both, counted, limit, tuple(shard) if shard else None)


def _shared(manifests: tuple[dict[str, Any], dict[str, Any]], key: str) -> Any:
    a, b = (manifest.get(key) for manifest in manifests)
    return a if a == b else None


def _split_rows(data: PairedRuns, seen: int) -> int | None:
    recorded = [run.manifest.get("split_rows") for run in (data.run_a, data.run_b)]
    known = [number for number in recorded if isinstance(number, int)]
    if known:
        return max(known)
    for run, only in ((data.run_a, data.join.only_b), (data.run_b, data.join.only_a)):
        wanted = (run.manifest.get("hashes") or {}).get("split")
        if wanted and not only and split_hash(run.task, _true_rows(run)) == wanted:
            return seen
    return None


def _true_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Each row once, as the split held it."""
    met: set[str] = set()
    for _, row in run.stream():
        if row.id not in met:
            met.add(row.id)
            yield {"id": row.id, **row.true}
