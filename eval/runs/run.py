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

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import read_json, sha256_json
from mlx_phi3v.task import Task

from .manifest import check_manifest
from .prediction import _parse_line, _read_json


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
