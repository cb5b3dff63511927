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

from ..runs.columns import Ints, RunColumns
from ..runs.manifest import HASHES
from ..runs.run import Run

# Hashes that identify the system under test, not its data and prompt.
_SUBJECT_HASHES = {"base": "base weights", "adapter": "adapter weights"}
_SUBJECT_SETTINGS = ("dtype", "quantization", "attn_implementation", "kv_bits", "backend", "batch_size", "device", "processes")
_SETTINGS = ("num_crops", "max_new_tokens", "temperature", "top_p", "seed")  # those of eval.predict, whether recorded or not
_MUST_MATCH = ("split", "limit", "shard")
# Manifest keys that differ between any two runs and mean nothing.
_SILENT = (
    "schema", "hashes", "settings", "task", "label", "start", "end", "rows", "seconds", "catalogue", "made_from",
    "split_rows", "training", *_MUST_MATCH,
)  # fmt: skip
_SHOWN_IDS = 5


@dataclass(frozen=True)
class RunDifference:
    """One difference between two runs. `name` is what `--allow` takes; `refuses`: no comparison unless it is allowed."""

    name: str
    a: Any
    b: Any
    refuses: bool

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.a)} | {_short(self.b)}"


@dataclass(frozen=True)
class RowJoin:
    """The rows of two runs joined by id: `a[i]` in A and `b[i]` in B are the same row."""

    ids: list[str]
    a: Ints
    b: Ints
    only_a: list[str]
    only_b: list[str]


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
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        places = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
        first, more = places[0], f" and {len(places) - 1} more" if len(places) > 1 else ""
        return [(f"{name}[{first}]{more}", a[first], b[first])]
    return [(name, a, b)]


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
        raise UserError(
            f"{a.rows_path} and {b.rows_path} have no whole row in common; run both on the same catalogue and split"
        )


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


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:12]
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
