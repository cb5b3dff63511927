"""Write a run row by row, resumable or whole; and baselines."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_folder, atomic_path, folder_in_place, is_temporary, read_json, write_json

from .line_order import put_in_order
from .lines import read_lines
from .manifest import SCHEMA, check_manifest, check_same_run, now, read_task
from .prediction import Prediction, PredictionReader
from .run import Run, vocabulary_of

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

    def __init__(self, folder: Path, manifest: dict[str, Any], held: ExitStack) -> None:
        self.folder = folder
        self.manifest = manifest
        self.done: set[str] = set()
        self._ids: Collection[str] | None = None  # of all rows, in order
        self._lines: list[str] = []  # of the rows written, in the file's order
        self._held = held  # the lock, or the temporary folder
        self._file: BinaryIO | None = None

    @classmethod
    def open(
        cls, folder: Path | str, manifest: Mapping[str, Any], *, resume: bool = True, ids: Collection[str] | None = None
    ) -> RunWriter:
        """Begin a run in `folder`, or resume an interrupted one. No other process can write there until it is closed.

        Args:
            manifest: as in the docstring of `eval.runs.run`; `schema`, `start`, `end`, `rows` and `seconds` are filled in.
            resume: go on with an existing run; else an existing run is an error.
            ids: of the rows that the run may have, in the order that they have in the whole run; they may be written in any.

        A run that has no row yet may go on with other settings. Raises UserError where the folder holds another run (the
        keys that differ are named) or something else, where a line is no prediction, or another process is writing it.
        """
        folder = Path(folder)
        _check_ours(folder, resume)  # nothing is made or swept in a folder of something else
        with ExitStack() as held:
            held.enter_context(folder_in_place(folder))
            _check_ours(folder, resume)  # another process may have begun meanwhile
            empty = not any(folder.iterdir())
            fresh = {**manifest, "schema": SCHEMA, "start": manifest.get("start") or now()}
            writer = cls(folder, fresh | {"end": None, "rows": 0, "seconds": 0.0}, ExitStack())
            writer._resume(ids)
            if empty:
                held.push(writer._leave_nothing)
            writer._begin()
            writer._held = held.pop_all()
            writer._held.callback(writer._close_rows)
        return writer

    @classmethod
    def create(cls, folder: Path | str, manifest: Mapping[str, Any]) -> RunWriter:
        """Begin a run that appears in `folder` only if the block ends well. Raises UserError where something is there."""
        with ExitStack() as held:
            temporary = held.enter_context(atomic_folder(folder))
            fresh = {**manifest, "schema": SCHEMA, "start": manifest.get("start") or now()}
            writer = cls(temporary, fresh | {"end": None, "rows": 0, "seconds": 0.0}, ExitStack())
            writer._begin()
            writer._held = held.pop_all()
            writer._held.callback(writer._close_rows)
        return writer

    def _resume(self, ids: Collection[str] | None) -> None:
        """Take over what the folder holds of this run."""
        self._ids = ids
        path, rows = self.folder / "manifest.json", self.folder / "predictions.jsonl"
        if not path.exists():
            return
        old = check_manifest(read_json(path, "run manifest"), path)
        if rows.exists():
            with open(rows, "r+b") as file:
                reader = PredictionReader(rows, read_task(old, path), vocabulary_of(old))
                done, whole = _whole_rows(file, rows, reader)
                if done or old.get("end") is not None:  # else there is nothing to lose
                    check_same_run(old, json.loads(json.dumps(self.manifest)), self.folder)
                    _check_ids(done, ids, rows)
                    if not isinstance(old.get("start"), str):
                        raise UserError(f"{path} has no start; it must be there")
                    self.manifest |= {"start": old["start"], "seconds": old.get("seconds") or 0.0}
                file.truncate(whole)
                self.done, self._lines = set(done), list(done)

    def _begin(self) -> None:
        """The manifest comes first: by it the folder is known as ours from then on."""
        write_json(self.folder / "manifest.json", self.manifest)
        self._file = open(self.folder / "predictions.jsonl", "ab")  # noqa: SIM115 (held for the run's life)

    def write(self, row: Prediction) -> None:
        """Append one row.

        Raises UserError where a number of it is not finite, which no run can hold; ValueError for an id already written:
        that is an error of the caller.
        """
        assert self._file is not None
        if row.id in self.done:
            raise ValueError(f"row {row.id!r} is already in {self.folder}")
        try:
            text = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            raise UserError(
                f"the answer for row {row.id!r} has a log-probability or value that is not finite; check the model's weights, "
                "or try --dtype fp32"
            ) from None
        line = text.encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self.done.add(row.id)
        self._lines.append(row.id)

    def finish(self, *, seconds: float, complete: bool = True) -> None:
        """Mark the run whole; `seconds` is this session's time and adds to those of finished earlier ones.

        complete: false for a run made of unfinished ones, which stays unfinished.
        """
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._ids is not None:
            put_in_order(self.folder / "predictions.jsonl", self._lines, self._ids)
        end = now() if complete else None
        self.manifest |= {"end": end, "rows": len(self.done), "seconds": self.manifest["seconds"] + seconds}
        write_json(self.folder / "manifest.json", self.manifest)

    def close(self) -> None:
        """Close the files; the run stays unfinished unless `finish` was called."""
        self.__exit__(None, None, None)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.__exit__(kind, error, trace)

    def _close_rows(self) -> None:
        """Close the rows' file; on a full disk this fails as the last write did, and the output is named then."""
        if self._file is not None:
            self._file.close()

    def _leave_nothing(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """After a mistake before the first row: the corrected command finds no folder in its way."""
        if error is None or self.done:
            return
        for name in ("predictions.jsonl", "manifest.json"):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _check_ours(folder: Path, resume: bool) -> None:
    """Raises UserError where `folder` is there and holds no run that could be begun or resumed."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the run")
    if not folder.is_dir():
        return
    if (folder / "manifest.json").exists():
        if not resume:
            raise UserError(f"{folder} already holds a run; choose another folder, or resume it")
        check_manifest(read_json(folder / "manifest.json", "run manifest"), folder / "manifest.json")
        return
    for path in folder.iterdir():
        # Earlier versions made the rows' file before the manifest.
        begun = path.name == "predictions.jsonl" and path.is_file() and not path.stat().st_size
        if not begun and not is_temporary(path):
            raise UserError(f"{folder} is not empty and holds no run; choose another folder")


def _check_ids(done: Mapping[str, int], ids: Collection[str] | None, path: Path) -> None:
    allowed = None if ids is None else set(ids)
    for identity, number in done.items():
        if allowed is not None and identity not in allowed:
            raise UserError(f"{path} line {number} is the row {identity!r}, which is none of this run; remove that line")


def _whole_rows(file: BinaryIO, path: Path, reader: PredictionReader) -> tuple[dict[str, int], int]:
    """(the ids of all rows and their line numbers, the bytes they take): a truncated last line is left out."""
    done: dict[str, int] = {}
    whole = 0
    for number, line in read_lines(file, path):
        if not line.endswith(b"\n"):
            break
        identity = reader.read(line, number).id
        if identity in done:
            raise UserError(f"{path} line {number} repeats the row {identity!r}; remove one of the two, then resume")
        done[identity] = number
        whole += len(line)
    return done, whole


def write_baseline(run: Run, path: Path | str) -> None:
    """Write `run` as one file, to compare later runs with: all that verdict and causes need.

    Of each token's likeliest tokens it keeps two. Times and paths of photos are left out. Raises UserError where a row repeats.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps({"manifest": run.manifest}, ensure_ascii=False) + "\n")
        for row in run.distinct():
            top_k = [sorted(step, key=lambda item: -item[1])[:_KEPT_TOP_K] for step in row.top_k]
            small = replace(row, top_k=top_k, seconds=None, image=None)
            file.write(json.dumps(small.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n")
