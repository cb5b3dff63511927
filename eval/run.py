"""A run folder: what was run (`manifest.json`) and one line per product (`predictions.jsonl`).

    RUN/manifest.json        schema, backend, label, hashes, settings, task, catalogue, split, limit, shard,
                             code, packages, device, batch_size, start, end, rows, seconds
    RUN/predictions.jsonl    id, true, predicted, text, token_ids, logprobs, top_k, finish, fingerprints, seconds, image
    RUN/trace-OTHER.jsonl    another run's tokens scored under this run's model (see `eval.trace`)

`token_ids` holds every token chosen, the end token too where `finish` is "end"; `logprobs` and `top_k` stand
beside it, token by token, in nats. Rows may come in any order: everything joins by id.

A baseline is the same in one file: the manifest as the first line, then rows without their tokens.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_path, read_json, sha256_json, write_json
from mlx_phi3v.task import Task, is_missing

SCHEMA = 1
HASHES = ("base", "adapter", "catalogue", "split", "template", "tokenizer", "decoding")
STATUSES = ("ok", "missing", "duplicate", "malformed", "truncated")

# What a resumed run must share with its beginning, beside hashes and settings; batch size, processes, code and the
# places of folders may change.
_RESUME_KEYS = ("backend", "task", "split", "limit", "shard")


def true_values(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """The `true` entry of a prediction: the task's fields of a catalogue row, None where there is no value."""
    return {item.name: None if is_missing(row.get(item.name)) else row[item.name] for item in task.fields}


def predicted_values(task: Task, text: str, *, truncated: bool) -> dict[str, dict[str, Any]]:
    """The `predicted` entry of a prediction: each field's value and parse status, read from the answer."""
    parsed = task.parse(text, truncated=truncated)
    return {name: {"value": item.value, "status": item.status} for name, item in parsed.items()}


def split_hash(task: Task, rows: Iterator[Mapping[str, Any]]) -> str:
    """Hex SHA-256 of a split's ids and true values, whatever the order of its rows."""
    lines = sorted(sha256_json({"id": str(row["id"]), "true": true_values(task, row)}) for row in rows)
    return sha256_json(lines)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def check_manifest(manifest: Any, path: Path) -> dict[str, Any]:
    """`manifest` itself. Raises UserError where it is of another schema or lacks what a comparison needs."""
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise UserError(f"{path} is no run manifest (it has no 'schema'); give a folder written by eval.predict or eval.bring")
    if manifest["schema"] != SCHEMA:
        raise UserError(f"{path} has run schema {manifest['schema']!r}, this version reads {SCHEMA}; run eval.predict again")
    if "task" not in manifest:
        raise UserError(f"{path} has no 'task'; run eval.predict or eval.bring again")
    return manifest


class RunWriter:
    """Appends rows to a run folder, each flushed as it comes, so that a kill loses at most the row in flight.

    >>> with RunWriter.open(folder, manifest) as writer:
    ...     for row in rows if row["id"] not in writer.done:
    ...         writer.write(row)
    ...     writer.finish(seconds=elapsed)
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], done: set[str], file: BinaryIO) -> None:
        self.folder = folder
        self.manifest = manifest
        self.done = done
        self._file = file

    @classmethod
    def open(cls, folder: Path | str, manifest: Mapping[str, Any], *, resume: bool = True) -> RunWriter:
        """Begin a run, or go on with one that was cut short.

        Args:
            manifest: as in the module's docstring; `schema`, `start`, `end`, `rows` and `seconds` are filled in.
            resume: go on with an existing run; else an existing run is an error.

        Raises UserError where the folder holds another run (the keys that differ are named), where a line other
        than the last is broken, or where another process is writing it.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give a folder for the run")
        fresh = {**manifest, "schema": SCHEMA, "start": manifest.get("start") or now(), "end": None, "rows": 0, "seconds": 0.0}
        path = folder / "manifest.json"
        if path.exists():
            if not resume:
                raise UserError(f"{folder} already holds a run; choose another folder, or resume it")
            old = check_manifest(read_json(path, "run manifest"), path)
            _check_same_run(old, json.loads(json.dumps(fresh)), folder)
            fresh |= {"start": old["start"], "seconds": old.get("seconds", 0.0)}
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "predictions.jsonl", "a+b")  # noqa: SIM115 (held for the run's life)
        try:
            _lock(file, folder)
            done = _cut_to_whole_lines(file, folder / "predictions.jsonl")
            write_json(path, fresh)
        except BaseException:
            file.close()
            raise
        return cls(folder, fresh, done, file)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Raises ValueError for an id already written: that is an error of the caller."""
        if row["id"] in self.done:
            raise ValueError(f"row {row['id']!r} is already in {self.folder}")
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self.done.add(row["id"])

    def finish(self, *, seconds: float) -> None:
        """Mark the run whole; `seconds` is this session's time and adds to those of finished earlier ones."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.manifest |= {"end": now(), "rows": len(self.done), "seconds": self.manifest["seconds"] + seconds}
        write_json(self.folder / "manifest.json", self.manifest)
        self.close()

    def close(self) -> None:
        """Close the file; the run stays unfinished unless `finish` was called."""
        self._file.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check_same_run(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
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


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such lock on Windows: two writers are then the user's to avoid
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is writing {folder}; wait for it to end, or choose another folder") from None
    except OSError:  # some network disks have no locks
        return


def _cut_to_whole_lines(file: BinaryIO, path: Path) -> set[str]:
    """Cut a half-written last line off; the ids of the rest."""
    done: set[str] = set()
    whole = 0
    file.seek(0)
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        identity = _parse_line(line, path, number)["id"]
        if identity in done:
            raise UserError(f"{path} line {number} repeats the row {identity!r}; remove one of the two, then resume")
        done.add(identity)
        whole += len(line)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return done


def _read_json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # Python writes NaN, which JSON has not
        return json.loads(line)


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = _read_json(line)
    except ValueError:
        raise UserError(f"{path} line {number} is not whole JSON; remove that line and resume the run") from None
    if not isinstance(row, dict) or not {"id", "true", "predicted"} <= set(row):
        raise UserError(f"{path} line {number} lacks one of id, true, predicted; it is no prediction")
    return row


class Run:
    """A run read back: `manifest`, `label`, `task`, and its rows, streamed or all at once."""

    def __init__(self, path: Path, rows_path: Path, manifest: dict[str, Any], start: int) -> None:
        self.path = path
        self.manifest = manifest
        self.task = Task.from_dict(manifest["task"])
        self.torn = False
        self._rows_path = rows_path
        self._start = start

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a run folder or a baseline file. Raises UserError where it is neither."""
        path = Path(path)
        if path.is_file():
            with open(path, "rb") as file:
                first = file.readline()
            try:
                manifest = json.loads(first)["manifest"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is no baseline (its first line holds no manifest); make one with eval.score") from None
            return cls(path, path, check_manifest(manifest, path), len(first))
        if not (path / "manifest.json").is_file():
            raise UserError(f"{path} is no run (it has no manifest.json); give a folder written by eval.predict")
        manifest = check_manifest(read_json(path / "manifest.json", "run manifest"), path / "manifest.json")
        if not (path / "predictions.jsonl").is_file():
            raise UserError(f"{path} has no predictions.jsonl; run eval.predict again")
        return cls(path, path / "predictions.jsonl", manifest, 0)

    @property
    def label(self) -> str:
        """What the run calls itself; its folder's name where it has no label."""
        return str(self.manifest.get("label") or self.path.name)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.manifest.get("end") is not None

    def stream(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(byte offset, row) in file order, one row in memory at a time. A torn last line is left out (`torn`)."""
        offset = self._start
        with open(self._rows_path, "rb") as file:
            file.seek(offset)
            for number, line in enumerate(file, 2 if self._start else 1):
                if not line.endswith(b"\n"):
                    self.torn = True
                    return
                yield offset, _parse_line(line, self._rows_path, number)
                offset += len(line)

    def read(self, offset: int) -> dict[str, Any]:
        """The row at a byte offset that `stream` gave."""
        self._handle.seek(offset)
        row: dict[str, Any] = _read_json(self._handle.readline())
        return row

    @cached_property
    def _handle(self) -> BinaryIO:
        return open(self._rows_path, "rb")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All rows at once; for a large run, `stream`."""
        return [row for _, row in self.stream()]

    def content_hash(self) -> str:
        """Hex SHA-256 of all rows without their times, whatever their order: equal for equal results."""
        digests = sorted(sha256_json({key: row[key] for key in row if key != "seconds"}) for _, row in self.stream())
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def write_baseline(run: Run, path: Path | str) -> None:
    """Write `run` as one small file (no tokens) to keep beside the code and compare later runs with."""
    keep = ("id", "true", "predicted", "text", "finish")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps({"manifest": run.manifest}, ensure_ascii=False) + "\n")
        for _, row in run.stream():
            file.write(json.dumps({key: row[key] for key in keep if key in row}, ensure_ascii=False) + "\n")
