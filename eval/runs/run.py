"""A run: a folder with its manifest (`manifest.json`) and one line for each row (`predictions.jsonl`).

    RUN/manifest.json        schema, backend, label, hashes, settings, task, catalogue, split, split_rows, limit, shard,
                             training (the settings of the adapter's training), code, packages, device, batch_size, start,
                             end, rows, seconds; where a command made the run of others or of a table, made_from (see
                             `eval.runs.made_from`)
    RUN/predictions.jsonl    id, true, predicted, text, token_ids, logprobs, top_k, finish, fingerprints, seconds, image,
                             product (see `Prediction`)
    RUN/trace-OTHER.jsonl    another run's tokens scored under this run's model (see `eval.runs.scored_tokens`)

Rows may come in any order: everything joins by id. A baseline is the same in one file: the manifest as the first
line, then the rows without their times and the paths of their photos. Those of earlier versions lack tokens too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlx_phi3v.documents import MOST_BYTES, check_shape, parse_json, read_json
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import NUMBERS, ParsedField, Task

from .lines import read_lines
from .manifest import check_manifest
from .prediction import Prediction, PredictionReader
from .shapes import BaselineShape

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run on disk: `manifest`, `label`, `task`, and its rows, streamed or all at once.

    `truncated` says, after a `stream` to the end, whether the last line was incomplete and left out.
    """

    def __init__(self, path: Path, rows_path: Path, manifest: dict[str, Any], start: int) -> None:
        self.path = path
        self.manifest = manifest
        self.task = Task.from_dict(manifest["task"])
        self.vocabulary = vocabulary_of(manifest)
        self.truncated = False
        self._rows_path = rows_path
        self._start = start
        self._reader = PredictionReader(rows_path, self.task, self.vocabulary)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a run folder or a baseline file. Raises UserError where it is neither."""
        path = Path(path)
        if path.is_file():
            manifest, start = _read_first_line(path)
            return cls(path, path, manifest, start)
        if not (path / "manifest.json").is_file():
            raise UserError(f"{path} is no run (it has no manifest.json); give a folder written by eval.predict")
        manifest = check_manifest(read_json(path / "manifest.json", "run manifest"), path / "manifest.json")
        if not (path / "predictions.jsonl").is_file():
            raise UserError(f"{path} has no predictions.jsonl; run eval.predict again")
        return cls(path, path / "predictions.jsonl", manifest, 0)

    @property
    def label(self) -> str:
        """The run's name in reports; its folder's name where it has no label."""
        return str(self.manifest.get("label") or self.path.name)

    @property
    def finished(self) -> bool:
        """Whether every row was answered."""
        return self.manifest.get("end") is not None

    @property
    def whole(self) -> bool:
        """Whether it is finished, and its file has as many lines as its manifest says; `eval.predict` makes what is missing."""
        rows = self.manifest.get("rows")
        if not self.finished or not isinstance(rows, int):
            return self.finished
        with open(self._rows_path, "rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) >= rows

    def stream(self) -> Iterator[tuple[int, Prediction]]:
        """(byte offset, row) in the file's order, one row in memory at a time.

        A truncated last line is left out and sets `truncated`. Raises UserError for any other line that is no prediction.
        """
        for _, offset, row in self.numbered():
            yield offset, row

    def numbered(self) -> Iterator[tuple[int, int, Prediction]]:
        """(line number, byte offset, row), as `stream`."""
        offset = self._start
        with open(self._rows_path, "rb") as file:
            file.seek(offset)
            for number, line in read_lines(file, self._rows_path, 2 if self._start else 1):
                if not line.endswith(b"\n"):
                    self.truncated = True
                    return
                yield number, offset, self._reader.read(line, number)
                offset += len(line)

    def distinct(self) -> Iterator[Prediction]:
        """The rows. Raises UserError, naming line and id, where a row repeats: for what is written from this run."""
        seen: dict[str, int] = {}
        for number, _, row in self.numbered():
            if row.id in seen:
                raise UserError(
                    f"{self.place(number)} repeats the row {row.id!r} of line {seen[row.id]}; remove one of the two"
                )
            seen[row.id] = number
            yield row

    @property
    def rows_path(self) -> Path:
        """The file of the rows."""
        return self._rows_path

    def place(self, number: int) -> str:
        """What messages call line `number` of the rows."""
        return f"{self._rows_path} line {number}"

    @contextmanager
    def reader(self) -> Iterator[Callable[[int], Prediction]]:
        """A function that reads the row at a byte offset that `stream` gave; the file is open within the block."""
        with open(self._rows_path, "rb") as file:

            def read(offset: int) -> Prediction:
                file.seek(offset)
                return self._reader.read(file.readline(MOST_BYTES + 1), 0)

            yield read

    @cached_property
    def rows(self) -> list[Prediction]:
        """All rows at once; for a large run, `stream`."""
        return [row for _, row in self.stream()]

    def content_hash(self) -> str:
        """Hex SHA-256 of all rows without their times, whatever their order: equal for equal results."""
        digests = sorted(sha256_json(replace(row, seconds=None).to_dict()) for _, row in self.stream())
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame, without tokens and fingerprints.

        RunColumns: id; true_FIELD, predicted_FIELD and status_FIELD for each of the task's fields; text; finish; seconds;
        image. What is missing is None, or NaN in a number's column.

        For instance `run.to_pandas().groupby("true_category3_code")["status_full_price"].value_counts()`.
        """
        import pandas as pd

        records = [_flat(row, self.task) for _, row in self.stream()]
        names = _flat(Prediction("", {}, {}), self.task)
        frame = pd.DataFrame.from_records(records, columns=list(names))
        numbers = ["seconds"]
        for item in self.task.fields:
            if item.kind in NUMBERS:
                numbers += [f"true_{item.name}", f"predicted_{item.name}"]
        return frame.astype(dict.fromkeys(numbers, "float64"))


def vocabulary_of(manifest: Mapping[str, Any]) -> int | None:
    """How many token ids the model of a run has, where its manifest says so."""
    size: int | None = (manifest.get("model_config") or {}).get("vocab_size")
    return size


def _read_first_line(path: Path) -> tuple[dict[str, Any], int]:
    """(manifest, bytes of its line) of a baseline. Raises UserError where the file is none."""
    with open(path, "rb") as file:
        first = file.readline(MOST_BYTES + 1)
    place = f"{path} line 1"
    try:
        value = parse_json(first, place)
    except ValueError:
        value = None
    if not isinstance(value, dict) or "manifest" not in value or not first.endswith(b"\n"):
        raise UserError(f"{path} is no baseline (its first line holds no manifest); make one with eval.score")
    return check_manifest(check_shape(value, BaselineShape, place).manifest, place), len(first)


def _flat(row: Prediction, task: Task) -> dict[str, Any]:
    """A row's values by column of `Run.to_pandas`."""
    flat: dict[str, Any] = {"id": row.id}
    for item in task.fields:
        predicted = row.predicted.get(item.name, ParsedField(None, "missing"))
        flat[f"true_{item.name}"] = row.true.get(item.name)
        flat[f"predicted_{item.name}"] = predicted.value
        flat[f"status_{item.name}"] = predicted.status
    return flat | {"text": row.text, "finish": row.finish, "seconds": row.seconds, "image": row.image}
