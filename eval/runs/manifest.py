"""A run's `manifest.json`: its schema, and what a resumed run must share with its beginning."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_phi3v.documents import check_shape, shown
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import Task
from mlx_phi3v.turns import TURNS

from .prediction import true_values
from .shapes import ManifestShape

SCHEMA = 1
HASHES = ("base", "adapter", "catalogue", "split", "template", "tokenizer", "decoding")
# What a resumed run must share with its beginning, beside hashes and settings; batch size, processes, code and the
# paths of folders may change.
_RESUME_KEYS = ("backend", "task", "split", "limit", "shard")


def split_hash(task: Task, rows: Iterator[Mapping[str, Any]]) -> str:
    """Hex SHA-256 of a split's ids, true values and own questions, whatever the order of its rows."""
    lines = []
    for row in rows:
        asked = {"turns": row[TURNS]} if row.get(TURNS) else {}
        lines.append(sha256_json({"id": str(row["id"]), "true": true_values(task, row)} | asked))
    return sha256_json(sorted(lines))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def check_manifest(manifest: Any, place: Path | str) -> dict[str, Any]:
    """`manifest` itself, read from `place`. Raises UserError where it is of another schema or shape, or lacks what a comparison
    needs."""
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UserError(
            f"{place} is no run manifest (it has no 'schema'); give a folder written by eval.predict or eval.import_run"
        )
    schema = manifest["schema"]
    if type(schema) is not int or schema != SCHEMA:
        raise UserError(f"{place} has run schema {shown(schema)}, this version reads {SCHEMA}; run eval.predict again")
    if "task" not in manifest:
        raise UserError(f"{place} has no 'task'; run eval.predict or eval.import_run again")
    check_shape(manifest, ManifestShape, place)
    read_task(manifest, place)
    shard = manifest.get("shard")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UserError(f"{place}: shard is {shown(shard)}; it must be [i, n] with 1 <= i <= n")
    return manifest


def read_task(manifest: Mapping[str, Any], place: Path | str) -> Task:
    """The task of a manifest. Raises UserError that names `place`, where it was read."""
    try:
        return Task.from_dict(manifest["task"])
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def check_same_run(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Raises UserError, naming what differs, where a run with manifest `new` cannot go on in `folder`, which has `old`."""
    pairs: list[tuple[str, Any, Any]] = []
    for group in ("hashes", "settings"):
        before, after = old.get(group) or {}, new.get(group) or {}
        pairs += [(f"{group}.{key}", before.get(key), after.get(key)) for key in sorted(set(before) | set(after))]
    pairs += [(key, old.get(key), new.get(key)) for key in _RESUME_KEYS]
    differing = [f"{key} was {_short(before)}, is {_short(after)}" for key, before, after in pairs if before != after]
    if differing:
        raise UserError(f"{folder} holds another run: {'; '.join(differing)}. Choose another --output or the same settings")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:12] + "..."
