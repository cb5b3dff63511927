"""What a catalogue can be made of: a table file, a folder of photos or tables, a saved `datasets` folder, a hub dataset."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import Task

from .annotations import annotated
from .arrow_tables import DatasetTable
from .chat import ChatTable, is_chat
from .picture_suffixes import PICTURE_SUFFIXES
from .row import Row
from .tables import Table, is_table, open_table

_PHOTO_SUFFIXES = frozenset(PICTURE_SUFFIXES)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class RawRow(NamedTuple):
    """One row as the source has it. `number` counts all rows from 1; `place` is the file and line."""

    number: int
    values: Row
    split: str | None
    root: str | None  # folder that relative photo paths start from; None: paths are not read
    place: str
    group: str | None = None  # the product, where the mapping names a column of it
    photo: int | None = None  # which of its photos the row shows, where each photo has a row


@dataclass(frozen=True)
class SourceTable:
    """A table of the source with the split that its folder or name gives it."""

    table: Table
    split: str | None
    root: Path | None
    place: str


@dataclass(frozen=True)
class Source:
    """An opened source. `identity` changes when the data does; `columns` is the union over its tables."""

    name: str
    tables: tuple[SourceTable, ...]
    identity: str

    @property
    def kind(self) -> str:
        """csv, json, parquet, datasets, images or chat."""
        return self.tables[0].table.kind

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Column names and types over all tables. Raises UserError where two tables disagree."""
        columns: dict[str, pa.DataType] = {}
        for item in self.tables:
            for name, kind in item.table.columns.items():
                if columns.setdefault(name, kind) != kind:
                    first = self.tables[0].place
                    raise UserError(
                        f"column {name!r} is {columns[name]} in {first} but {kind} in {item.place}; make them alike"
                    )
        return columns

    @property
    def count(self) -> int:
        """How many rows there are; an estimate for CSV."""
        return sum(item.table.count for item in self.tables)

    @property
    def has_splits(self) -> bool:
        """Whether folders or names of the source give splits."""
        return any(item.split for item in self.tables)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, numbered from 1."""
        numbers = itertools.count(1)
        for item in self.tables:
            root = str(item.root) if item.root else None
            for line, row in item.table.rows():
                yield RawRow(next(numbers), row, item.split, root, f"{item.place}:{line}")


def open_source(
    source: str, *, encoding: str = "utf-8", delimiter: str | None = None, answer_task: Task | None = None
) -> Source:
    """Open what `source` names. `answer_task` reads the answers of chat rows back into fields.

    Raises UserError where it does not exist or holds nothing to read.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if _HUB_ID.fullmatch(source) and not is_table(path):
            return _hub(source, answer_task)
        raise UserError(f"{source} does not exist; give a file, a folder or a hub dataset such as OWNER/NAME")
    if path.is_file():
        if not is_table(path):
            raise UserError(f"{source} is of no known kind; give CSV, TSV, JSON, JSONL or Parquet")
        tables = [SourceTable(open_table(path, encoding=encoding, delimiter=delimiter), None, path.parent.resolve(), path.name)]
    else:
        tables = list(_folder_tables(path, None, path, encoding, delimiter))
    tables = _without_lone_train(tables)
    if not tables:
        raise UserError(f"{source} holds neither photos nor a table; put photos into folders named after their category")
    tables = [SourceTable(annotated(item.table), *_rest(item)) for item in tables]
    tables = [SourceTable(ChatTable(item.table, answer_task), *_rest(item)) if is_chat(item.table) else item for item in tables]
    return Source(source, tuple(tables), sha256_json(list(_stamps(path))))


def _without_lone_train(tables: list[SourceTable]) -> list[SourceTable]:
    """One split named train is the whole set, still to be split."""
    if {item.split for item in tables} != {"train"}:
        return tables
    return [SourceTable(item.table, None, item.root, item.place) for item in tables]


def _rest(item: SourceTable) -> tuple[str | None, Path | None, str]:
    return item.split, item.root, item.place


def _folder_tables(folder: Path, split: str | None, top: Path, encoding: str, delimiter: str | None) -> Iterator[SourceTable]:
    place = folder.relative_to(top).as_posix() if folder != top else folder.name
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        yield from _saved_dataset(folder, split, place)
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    split_folders = [entry for entry in entries if entry.is_dir() and entry.name.lower() in SPLIT_NAMES]
    if split_folders and split is None:
        for entry in split_folders:
            yield from _folder_tables(entry, SPLIT_NAMES[entry.name.lower()], top, encoding, delimiter)
        return
    tables = _choose_tables(folder, [entry for entry in entries if entry.is_file() and is_table(entry)])
    for entry in tables:
        named = re.match(r"[A-Za-z]+", entry.stem)
        own = SPLIT_NAMES.get(named[0].lower()) if named else None
        table = open_table(entry, encoding=encoding, delimiter=delimiter)
        yield SourceTable(table, split or own, folder.resolve(), f"{place}/{entry.name}")
    if not tables:
        images = ImageFolder(folder)
        if images.count:
            yield SourceTable(images, split, folder.resolve(), place)
        elif (folder / "data").is_dir():  # a hub repository keeps its tables there
            yield from _folder_tables(folder / "data", split, top, encoding, delimiter)


def _choose_tables(folder: Path, tables: list[Path]) -> list[Path]:
    """The one table of a folder, `metadata.*` among several, or the shards and splits of one data set."""
    kinds = {table.suffix.lower() for table in tables}
    if len(tables) > 1 and (named := [table for table in tables if table.stem == "metadata"]):
        return named[:1]
    words = [re.match(r"[A-Za-z]+", table.stem) for table in tables]
    shards = all(word is not None and word[0].lower() in SPLIT_NAMES for word in words)
    if len(tables) > 1 and not (len(kinds) == 1 and (shards or kinds == {".parquet"})):
        raise UserError(f"{folder} holds several tables ({', '.join(t.name for t in tables[:4])}); give the one you mean")
    return tables


class ImageFolder:
    """Photos in folders named after their category: columns image, category, file."""

    kind = "images"
    columns: dict[str, pa.DataType] = {"image": pa.string(), "category": pa.string(), "file": pa.string()}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = sum(1 for _ in self._paths())

    def _paths(self) -> Iterator[Path]:
        for parent, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if Path(name).suffix.lower() in _PHOTO_SUFFIXES and not name.startswith("."):
                    yield Path(parent, name)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each photo, in the order of folder and file names."""
        for number, path in enumerate(self._paths(), 1):
            relative = path.relative_to(self.folder)
            category = relative.parent.as_posix()
            yield (
                number,
                {
                    "image": relative.as_posix(),
                    "category": None if category == "." else category,
                    "file": relative.as_posix(),
                },
            )


def _stamps(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, size, time) of every file: whether the source is still what it was, without reading it again."""
    files: Iterable[Path] = [path]
    if path.is_dir():
        files = (
            Path(parent, name) for parent, folders, names in os.walk(path) for name in sorted(names) if folders.sort() is None
        )
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        # A name that is not UTF-8 holds surrogates here, which no hash takes.
        name = os.path.relpath(file, path).encode("utf-8", "backslashreplace").decode("utf-8")
        yield name, stat.st_size, stat.st_mtime_ns


def _dataset_tables(loaded: Any, split: str | None, root: Path | None, place: str) -> Iterator[SourceTable]:
    if isinstance(loaded, dict):
        for name, dataset in loaded.items():
            yield SourceTable(DatasetTable(dataset), SPLIT_NAMES.get(name.lower(), name), root, f"{place}/{name}")
    else:
        yield SourceTable(DatasetTable(loaded), split, root, place)


def _saved_dataset(folder: Path, split: str | None, place: str) -> Iterator[SourceTable]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise UserError(f"{folder} cannot be read as a saved dataset ({_short(error)}); save it again") from None
    yield from _dataset_tables(loaded, split, folder.resolve(), place)


def _hub(name: str, answer_task: Task | None) -> Source:
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise UserError(
            f"{name} is neither a local path nor on the hub ({_short(error)}); check the name, the network and HF_TOKEN"
        ) from None
    tables = _without_lone_train(list(_dataset_tables(loaded, None, None, name)))
    tables = [SourceTable(ChatTable(p.table, answer_task), *_rest(p)) if is_chat(p.table) else p for p in tables]
    stamps = [dataset._fingerprint for dataset in (loaded.values() if isinstance(loaded, dict) else [loaded])]
    return Source(name, tuple(tables), sha256_json(stamps))


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
