"""Whether two runs may be compared: what their manifests and rows must share, and what may differ.

What is under test may differ: weights, adapter, backend, dtype, device, batch size. Such differences are reported.
Data, prompt and decoding must not differ, unless the user allows each by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_phi3v.errors import UserError

from ..runs.columns import Ints, RunColumns, read_columns
from ..runs.manifest import HASHES
from ..runs.run import Run

# Hashes that identify the system under test, not its data and prompt.
_SUBJECT_HASHES = {"base": "base weights", "adapter": "adapter weights"}
_SUBJECT_SETTINGS = ("dtype", "quantization", "attn_implementation", "kv_bits", "backend", "batch_size", "device", "processes")
_SETTINGS = ("num_crops", "max_new_tokens", "temperature", "top_p", "seed")  # those of eval.predict, whether recorded or not
_FEWER_ROWS = ("limit", "shard")
_MUST_MATCH = ("split", *_FEWER_ROWS)
# Manifest keys that differ between any two runs and mean nothing.
_SILENT = (
    "schema", "hashes", "settings", "task", "label", "start", "end", "rows", "seconds", "catalogue", "made_from",
    "split_rows", "training", *_MUST_MATCH,
)  # fmt: skip
_SHOWN_IDS = 5
_SHOWN_LEAVES = 5
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class RunDifference:
    """One difference between two runs. `name` is what `--allow` takes; `refuses`: no comparison unless it is allowed."""

    name: str
    a: Any
    b: Any
    refuses: bool

    def __str__(self) -> str:
        leaves = _walk(self.name, self.a, self.b) or [(self.name, self.a, self.b)]
        more = f"; and {len(leaves) - _SHOWN_LEAVES} more" if len(leaves) > _SHOWN_LEAVES else ""
        return "; ".join(f"{name}: {' | '.join(_shorts(a, b))}" for name, a, b in leaves[:_SHOWN_LEAVES]) + more


@dataclass(frozen=True)
class RowJoin:
    """The rows of two runs joined by id: `a[i]` in A and `b[i]` in B are the same row."""

    ids: list[str]
    a: Ints
    b: Ints
    only_a: list[str]
    only_b: list[str]


def read_for_comparison(run: Run) -> RunColumns:
    """The run in columns. Raises UserError where it has more rows than its manifest says that it was asked."""
    columns = read_columns(run)
    total, limit, shard = (run.manifest.get(key) for key in ("split_rows", "limit", "shard"))
    asked = min((number for number in (total, limit) if number is not None), default=None)
    if asked is None:
        return columns
    most = asked if shard is None else len(range(asked)[shard[0] - 1 :: shard[1]])
    if len(columns.ids) > most:
        keys = ", ".join(
            f"{key} {value}" for key, value in (("split_rows", total), ("limit", limit), ("shard", shard)) if value
        )
        raise UserError(
            f"{run.rows_path} has {len(columns.ids):,} rows, but its manifest says {keys}: at most {most:,} rows; "
            "one of the two is of another run, or was changed: predict again"
        )
    return columns


def join(a: RunColumns, b: RunColumns) -> RowJoin:
    """Join by id, in A's order. Ids that one run lacks are listed."""
    position = b.position()
    pairs = [(i, position[identity]) for i, identity in enumerate(a.ids) if identity in position]
    here = set(a.ids)
    return RowJoin(
        ids=[a.ids[i] for i, _ in pairs],
        a=np.array([i for i, _ in pairs], dtype=np.int64),
        b=np.array([j for _, j in pairs], dtype=np.int64),
        only_a=[identity for identity in a.ids if identity not in position],
        only_b=[identity for identity in b.ids if identity not in here],
    )


def manifest_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[RunDifference]:
    """All differences between two manifests, the refusing ones first. A hash that one run lacks refuses nothing."""
    found: list[RunDifference] = []
    hashes_a, hashes_b = a.get("hashes") or {}, b.get("hashes") or {}
    for name in sorted(set(hashes_a) | set(hashes_b)):
        left, right = hashes_a.get(name), hashes_b.get(name)
        known = left is not None and right is not None
        if left != right:
            found.append(RunDifference(_SUBJECT_HASHES.get(name, name), left, right, known and name not in _SUBJECT_HASHES))
    settings_a, settings_b = a.get("settings") or {}, b.get("settings") or {}
    for name in sorted(set(settings_a) | set(settings_b)):
        left, right = settings_a.get(name), settings_b.get(name)
        known = name in settings_a and name in settings_b
        if left != right:
            found.append(RunDifference(name, left, right, known and name not in _SUBJECT_SETTINGS))
    for name in _MUST_MATCH:
        if a.get(name) != b.get(name) and not any(item.name == name for item in found):
            found.append(RunDifference(name, a.get(name), b.get(name), True))
    if a["task"] != b["task"]:
        found.append(RunDifference("task", a["task"], b["task"], True))
    for name in sorted((set(a) | set(b)) - set(_SILENT)):
        found += [RunDifference(key, left, right, False) for key, left, right in _walk(name, a.get(name), b.get(name))]
    return sorted(found, key=lambda item: not item.refuses)


def other_model(differences: Collection[RunDifference]) -> bool:
    """Whether the differences show other weights, another adapter or another model."""
    subjects = (*_SUBJECT_HASHES.values(), "quantization", "adapter_config", "model_config")
    return any(item.name in subjects or item.name.split(".")[0] in subjects for item in differences)


def _walk(name: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ, by dotted name."""
    if a == b:
        return []
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [leaf for key in sorted(set(a) | set(b)) for leaf in _walk(f"{name}.{key}", a.get(key), b.get(key))]
    if (named_a := _by_name(a)) and (named_b := _by_name(b)) and named_a != named_b:
        return _walk(name, named_a, named_b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        places = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
        first, more = places[0], f" and {len(places) - 1} more" if len(places) > 1 else ""
        return [(f"{name}[{first}]{more}", a[first], b[first])]
    return [(name, a, b)]


def _by_name(value: Any) -> dict[str, Any] | None:
    """A list of objects that have names, such as a task's fields, by those names; None for any other value."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) and "name" in item for item in value):
        return None
    named = {str(item["name"]): item for item in value}
    return named if len(named) == len(value) else None


def row_differences(a: RunColumns, b: RunColumns, joined: RowJoin) -> list[RunDifference]:
    """Rows with other true values in the two runs, as one difference."""
    differing = np.flatnonzero(a.digests["true"][joined.a] != b.digests["true"][joined.b])
    if not len(differing):
        return []
    names = ", ".join(joined.ids[i] for i in differing[:_SHOWN_IDS])
    more = f" and {len(differing) - _SHOWN_IDS} more" if len(differing) > _SHOWN_IDS else ""
    text = f"{len(differing)} rows ({names}{more})"
    return [RunDifference("truth", text, "other true values", True)]


def check_comparable(a: Run, b: Run, differences: list[RunDifference], joined: RowJoin, allow: Collection[str]) -> None:
    """Raises UserError where the runs differ in data, prompt or decoding and it is not allowed, or share no row."""
    refused = [item for item in differences if item.refuses and item.name not in allow]
    if refused:
        listed = "; ".join(str(item) for item in refused)
        names = " ".join(item.name for item in refused)
        merge = " (merge shards first with eval.merge)" if any(item.name == "shard" for item in refused) else ""
        raise UserError(
            f"{a.path} and {b.path} differ in what must be equal: {listed}. Run one of them again{merge}, "
            f"or accept the difference with --allow {names}"
        )
    if not joined.ids:
        ids = [next((row.id for _, row in run.stream()), None) for run in (a, b)]
        such = "" if None in ids else f" (their ids are such as {ids[0]!r} and {ids[1]!r})"
        raise UserError(
            f"{a.rows_path} and {b.rows_path} have no whole row in common{such}; run both on the same catalogue and split"
        )


def check_floor_run(
    reference: Run, run: Run, of_rows: list[RunDifference], joined: RowJoin, allow: Collection[str]
) -> None:  # fmt: skip
    """Raises UserError where `run`, of --floor, is not the reference run again: the same data, prompt, decoding and weights.

    It may have fewer of the rows.
    """
    if run.path.resolve() == reference.path.resolve():
        raise UserError(f"--floor {run.path} is the reference itself; answer again, such as with another batch size")
    found = manifest_differences(reference.manifest, run.manifest) + of_rows
    other = [item for item in found if item.name in _SUBJECT_HASHES.values() and item.name not in allow]
    if other:
        raise UserError(
            f"--floor {run.path} is no run of what {reference.path} is a run of: {'; '.join(map(str, other))}. "
            "Give runs of the same model and adapter"
        )
    check_comparable(reference, run, found, joined, {*allow, *_FEWER_ROWS})


def check_allowed(allow: Collection[str], runs: Sequence[Run], more: Collection[str] = ()) -> None:
    """Raises UserError for a name that no difference between runs has: a mistyped one would allow nothing, in silence.

    more: names that may be allowed beside those of the runs.
    """
    known = {"task", "truth", *more, *_MUST_MATCH, *_SETTINGS, *(_SUBJECT_HASHES.get(name, name) for name in HASHES)}
    for run in runs:
        known |= set(run.manifest.get("hashes", {})) | set(run.manifest.get("settings", {}))
    for run in runs:
        known |= {item.name for item in manifest_differences(runs[0].manifest, run.manifest)}
    for name in allow:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {close[0]}?" if close else "the error message of a refused comparison names them"
            raise UserError(f"--allow {name} is no difference that runs may have; {hint}")


def _shorts(a: Any, b: Any) -> tuple[str, str]:
    """Both values, cut where they are long; two texts that begin alike are cut before they differ."""
    left, right = _short(a), _short(b)
    if left != right or not (isinstance(a, str) and isinstance(b, str)):
        return left, right
    alike = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    start = max(0, alike - _SHOWN_CHARACTERS // 3)
    return f"...{_short(a[start:])}", f"...{_short(b[start:])}"


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:12]
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
