"""Folders of photos and tables: which files are the data, and what folders and names say of splits and categories."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .hub import saved_dataset
from .picture_suffixes import PICTURE_SUFFIXES
from .reading.web_dataset import is_web_dataset
from .row import Row, RowError
from .source_tables import SPLIT_NAMES, SourceTable
from .tables import SUFFIXES, Reading, Table, is_table, open_table, suffix_of
from .tables_alike import tables_alike

PHOTO_SUFFIXES = frozenset(PICTURE_SUFFIXES)
_PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM")
_USUAL_PHOTO_FOLDERS = ("images", "image", "photos", "pictures", "img", "imgs")
_LOOKED_AT = 50  # rows, to find where their photos are


def folder_tables(folder: Path, reading: Reading, split: str | None = None, top: Path | None = None) -> list[SourceTable]:
    """The tables of a folder, or its photos as one. Raises UserError where it holds several tables that are no shards."""
    top = top or folder
    place = folder.relative_to(top).as_posix() if folder != top else folder.name
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return list(saved_dataset(folder, split, place))
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file() and is_table(entry)]
    folders = [entry for entry in entries if entry.is_dir()]
    splits = [entry for entry in folders if entry.name.lower() in SPLIT_NAMES] if split is None else []
    if splits and not (files and not any(map(_has_tables, splits))):
        found = [folder_tables(entry, reading, SPLIT_NAMES[entry.name.lower()], top) for entry in splits]
        return _noted(list(itertools.chain.from_iterable(found)), _left_out(files))
    files = files or _other_tables(entries)
    if len(files) > 1 and (alike := tables_alike(folder, files, reading)):
        return [SourceTable(table, split, photo_root(table, folder), f"{place}/{table.place}") for table in alike]
    if files:
        return [_folder_table(entry, reading, split, folder, place) for entry in _choose_tables(folder, files)]
    described = _described_below(folder)
    if described:
        tables = [_described(path, reading, _split_of(path, folder) or split, top) for path in described]
        return _noted(tables, _not_described(folder, described))
    return _photos_or_below(folder, folders, reading, split, top, place)


def _other_tables(entries: Sequence[Path]) -> list[Path]:
    """Where a folder has no table by its name: the shards of a WebDataset, or its one XML file."""
    tars = [entry for entry in entries if entry.is_file() and entry.suffix.lower() == ".tar"]
    if tars and all(map(is_web_dataset, tars)):
        return tars
    feeds = [entry for entry in entries if entry.is_file() and suffix_of(entry) == ".xml"]
    return feeds if len(feeds) == 1 else []


def may_be_data(name: str) -> bool:
    """Whether a file in an archive is unpacked: a table, a photo, or of no suffix."""
    suffix = suffix_of(Path(name))
    return suffix in PHOTO_SUFFIXES or suffix in (*SUFFIXES, "", ".xml", ".txt", ".tar")


def _photos_or_below(
    folder: Path, folders: Sequence[Path], reading: Reading, split: str | None, top: Path, place: str
) -> list[SourceTable]:
    """A folder without a table: photos, or the one folder that holds all, as an unpacked archive or a hub's `data` does."""
    lone = folders[0] if len(folders) == 1 and not any(entry.is_file() for entry in folder.iterdir()) else None
    if lone is not None and (_has_tables(lone) or any(entry.name.lower() in SPLIT_NAMES for entry in lone.iterdir())):
        return folder_tables(lone, reading, split, top)
    images = ImageFolder(folder)
    if images.count:
        return _noted([SourceTable(images, split, folder.resolve(), place)], images.passed_over())
    below = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_table(path)]
    if len(below) > 1 and (alike := tables_alike(folder, below, reading)):
        return [SourceTable(table, split, table.path.parent.resolve(), f"{place}/{table.place}") for table in alike]
    data = folder / "data"
    return folder_tables(data, reading, split, top) if data.is_dir() else []


def _folder_table(path: Path, reading: Reading, split: str | None, folder: Path, place: str) -> SourceTable:
    named = re.match(r"[A-Za-z]+", path.stem)
    own = SPLIT_NAMES.get(named[0].lower()) if named else None
    table = open_table(path, reading)
    root = photo_root(table, folder, named[0] if own and named else "")
    return SourceTable(table, split or own, root, f"{place}/{path.name}")


def _described(path: Path, reading: Reading, split: str | None, top: Path) -> SourceTable:
    return SourceTable(open_table(path, reading), split, path.parent.resolve(), path.relative_to(top).as_posix())


def _noted(tables: list[SourceTable], note: str) -> list[SourceTable]:
    if not note or not tables:
        return tables
    first = tables[0]
    return [SourceTable(first.table, first.split, first.root, first.place, (*first.notes, note)), *tables[1:]]


def _left_out(files: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in files[:4])
    return f"left out: {names}; the tables are those of the splits' folders" if files else ""


def _has_tables(folder: Path) -> bool:
    return any(is_table(entry) for entry in folder.iterdir() if entry.is_file()) or bool(_described_below(folder))


def _described_below(folder: Path) -> list[Path]:
    """The `metadata.*` of all folders below, as an image folder of the hub has them."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        tables = [path for name in sorted(files) if (path := Path(parent, name)).stem == "metadata" and is_table(path)]
        found += tables[:1]
    return found


def _not_described(folder: Path, described: Sequence[Path]) -> str:
    count = sum(1 for path in ImageFolder(folder).paths() if not any(path.is_relative_to(table.parent) for table in described))
    return f"left out: {count} photos in folders without metadata.csv, .jsonl or .parquet" if count else ""


def _split_of(path: Path, folder: Path) -> str | None:
    names = (part.lower() for part in path.relative_to(folder).parts[:-1])
    return next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), None)


def _choose_tables(folder: Path, tables: list[Path]) -> list[Path]:
    """The one table of a folder, `metadata.*` among several, or the shards and splits of one data set."""
    if len(tables) > 1 and (named := [table for table in tables if table.stem == "metadata"]):
        return named[:1]
    words = [re.match(r"[A-Za-z]+", table.stem) for table in tables]
    named_split = [table for table, word in zip(tables, words) if word is not None and word[0].lower() in SPLIT_NAMES]
    if len(tables) > 1 and named_split:  # beside them Kaggle puts a sample of what to hand in
        tables = named_split
    kinds = {table.suffix.lower() for table in tables}
    if len(tables) > 1 and not (len(kinds) == 1 and (named_split or kinds in ({".parquet"}, {".tar"}))):
        raise UserError(f"{folder} holds several tables ({', '.join(t.name for t in tables[:4])}); give the one you mean")
    return tables


def photo_root(table: Table, folder: Path, split: str = "") -> Path:
    """The folder that the photos of a table are found from: its own, or one in it, where only there the named files are."""
    named: list[str] = []
    for _, row in itertools.islice(table.rows(), _LOOKED_AT):
        if not isinstance(row, RowError):
            named += [value for value in row.values() if isinstance(value, str) and _names_photo(value)]
    if not named or any(_is_file(folder / name) for name in named):
        return folder.resolve()
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    wanted = [entry for entry in inside if entry.name.lower() == split.lower()]
    wanted += [entry for entry in inside if entry.name.lower() in _USUAL_PHOTO_FOLDERS]
    for entry in [*wanted, *[below / name for below in wanted for name in _USUAL_PHOTO_FOLDERS], *inside]:
        if any(_is_file(entry / name) for name in named):
            return entry.resolve()
    return folder.resolve()


def _names_photo(value: str) -> bool:
    return Path(value).suffix.lower() in PHOTO_SUFFIXES and "://" not in value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class ImageFolder:
    """Photos in folders named after their category: columns image, category, file."""

    kind = "images"
    columns: dict[str, pa.DataType] = {"image": pa.string(), "category": pa.string(), "file": pa.string()}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._others: Counter[str] = Counter()
        self.count = sum(1 for _ in self.paths(self._others))

    def paths(self, others: Counter[str] | None = None) -> Iterator[Path]:
        """The photos; `others` counts all other files by their suffix."""
        for parent, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                if path.suffix.lower() in PHOTO_SUFFIXES or (not path.suffix and _starts_as_photo(path)):
                    yield path
                elif others is not None:
                    others[path.suffix.lower()] += 1

    def passed_over(self) -> str:
        """A sentence on the files that are no photos, or ""."""
        if not self._others:
            return ""
        listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self._others.most_common(6))
        return f"{sum(self._others.values())} files are no photos and were passed over ({listed})"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each photo, in the order of folder and file names."""
        for number, path in enumerate(self.paths(), 1):
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


def _starts_as_photo(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_PHOTO_STARTS)
    except OSError:
        return False
