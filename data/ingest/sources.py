"""What a catalogue can be made of: a table file, a folder of photos or tables, a saved `datasets` folder, a hub dataset."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.errors import UserError
from mlx_phi3v.files import sha256_json
from mlx_phi3v.task import Task

from .annotations import annotated
from .chat import ChatTable, is_chat
from .folders import folder_tables, may_be_data, photo_root
from .hub import load_hub
from .hub_options import HubOptions
from .reading.archives import unpack
from .reading.file_kind import file_kind
from .reading.web_dataset import is_web_dataset
from .row import whole
from .source_tables import SPLIT_NAMES as SPLIT_NAMES
from .source_tables import RawRow as RawRow
from .source_tables import SourceTable as SourceTable
from .tables import Reading, is_table, open_table, suffix_of

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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
    def notes(self) -> tuple[str, ...]:
        """What was found in the files that a user may want to know, a sentence each."""
        found = ((*item.notes, *getattr(item.table, "notes", ())) for item in self.tables)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(found)))

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
        """How many rows there are; an estimate where a table's is."""
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
    source: str, *, reading: Reading | None = None, hub: HubOptions | None = None, answer_task: Task | None = None
) -> Source:
    """Open what `source` names. `answer_task` reads the answers of chat rows back into fields.

    Raises UserError where it does not exist or holds nothing to read.
    """
    path = Path(source).expanduser()
    reading = reading or Reading()
    if not path.exists():
        if not _HUB_ID.fullmatch(source) or is_table(path):
            raise UserError(f"{source} does not exist; give a file, a folder or a hub dataset such as OWNER/NAME")
        tables, stamps = load_hub(source, hub or HubOptions())
    elif not (path.is_file() or path.is_dir()):
        raise UserError(f"{source} is a device or a pipe; give a file or a folder")
    else:
        tables = _file_tables(path, reading) if path.is_file() else folder_tables(path, reading)
        stamps = list(_stamps(path))
    tables = _without_lone_train(tables)
    if not tables:
        raise UserError(f"{source} holds neither photos nor a table; put photos into folders named after their category")
    # What open_table gave stays as it is; tables of `datasets` have not been looked at.
    tables = [SourceTable(annotated(i.table, quick=reading.quick), i.split, i.root, i.place, i.notes) for i in tables]
    tables = [SourceTable(ChatTable(i.table, answer_task), *_rest(i)) if is_chat(i.table) else i for i in tables]
    said = {key: value for options in (reading, hub or HubOptions()) for key, value in asdict(options).items() if value}
    return Source(source, tuple(tables), sha256_json([stamps, said] if said else stamps))


def _file_tables(path: Path, reading: Reading) -> list[SourceTable]:
    with whole(path):
        kind = file_kind(path, suffix_of(path))
        if kind == "zip" or (kind == "tar" and not is_web_dataset(path)):
            return folder_tables(unpack(path, kind, may_be_data), reading)
    table = open_table(path, reading)
    return [SourceTable(table, None, photo_root(table, path.parent), path.name)]


def _without_lone_train(tables: list[SourceTable]) -> list[SourceTable]:
    """One split named train is the whole set, still to be split."""
    if {item.split for item in tables} != {"train"}:
        return tables
    return [SourceTable(item.table, None, item.root, item.place, item.notes) for item in tables]


def _rest(item: SourceTable) -> tuple[str | None, Path | None, str, tuple[str, ...]]:
    return item.split, item.root, item.place, (*item.notes, *getattr(item.table, "notes", ()))


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
