"""Write a run row by row, resumable; and baselines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_path, read_json, write_json

from .manifest import SCHEMA, check_manifest, check_same_run, now
from .prediction import Prediction
from .run import Run

_KEPT_TOP_K = 2  # of a baseline


class RunWriter:
    """Appends rows to a run folder, each flushed as it comes, so that a kill loses one row at most.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RunWriter.open(f"{folder}/run", {"task": {}}) as writer:
    ...     for prediction in (Prediction("p1", {}, {}), Prediction("p2", {}, {})):
    ...         if prediction.id not in writer.done:
    ...             writer.write(prediction)
    ...     writer.finish(seconds=1.5)
    ...     writer.manifest["rows"]
    2
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], done: set[str], file: BinaryIO) -> None:
        self.folder = folder
        self.manifest = manifest
        self.done = done
        self._file = file

    @classmethod
    def open(cls, folder: Path | str, manifest: Mapping[str, Any], *, resume: bool = True) -> RunWriter:
        """Begin a run, or resume an interrupted one.

        Args:
            manifest: as in the module's docstring; `schema`, `start`, `end`, `rows` and `seconds` are filled in.
            resume: go on with an existing run; else an existing run is an error.

        Raises UserError where the folder holds another run (the keys that differ are named), where a line other
        than the last is no prediction, or where another process is writing it.
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
            check_same_run(old, json.loads(json.dumps(fresh)), folder)
            fresh |= {"start": old["start"], "seconds": old.get("seconds", 0.0)}
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "predictions.jsonl", "a+b")  # noqa: SIM115 (held for the run's life)
        try:
            _lock(file, folder)
            done = _truncate_to_whole_lines(file, folder / "predictions.jsonl")
            write_json(path, fresh)
        except BaseException:
            file.close()
            raise
        return cls(folder, fresh, done, file)

    def write(self, row: Prediction) -> None:
        """Append one row. Raises ValueError for an id already written: that is an error of the caller."""
        if row.id in self.done:
            raise ValueError(f"row {row.id!r} is already in {self.folder}")
        line = json.dumps(row.to_dict(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self.done.add(row.id)

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


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such lock on Windows: the user must then avoid two writers
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is writing {folder}; wait for it to end, or choose another folder") from None
    except OSError:  # some network disks have no locks
        return


def _truncate_to_whole_lines(file: BinaryIO, path: Path) -> set[str]:
    """Remove a truncated last line; returns the ids of the others."""
    done: set[str] = set()
    whole = 0
    file.seek(0)
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        identity = Prediction.from_line(line, path, number).id
        if identity in done:
            raise UserError(f"{path} line {number} repeats the row {identity!r}; remove one of the two, then resume")
        done.add(identity)
        whole += len(line)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return done


def write_baseline(run: Run, path: Path | str) -> None:
    """Write `run` as one file, to compare later runs with: all that verdict and causes need.

    Of each token's likeliest tokens it keeps two. Times and paths of photos are left out.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps({"manifest": run.manifest}, ensure_ascii=False) + "\n")
        for _, row in run.stream():
            top_k = [sorted(step, key=lambda item: -item[1])[:_KEPT_TOP_K] for step in row.top_k]
            small = replace(row, top_k=top_k, seconds=None, image=None)
            file.write(json.dumps(small.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n")
