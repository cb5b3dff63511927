"""Folders of photos and tables: which files are the data, and what folders and names say of splits and categories."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mlx_phi3v.errors import UserError

from .beside_photos import folder_of_photos
from .hub import saved_dataset
from .image_folder import PHOTO_SUFFIXES, ImageFolder
from .reading.web_dataset import is_web_dataset
from .row import RowError
from .source_tables import SPLIT_NAMES, SourceTable
from .tables import SUFFIXES, Reading, Table, is_table, open_table, suffix_of
from .tables_alike import tables_alike

_USUAL_PHOTO_FOLDERS = ("images", "image", "photos", "pictures", "img", "imgs")
_SPLIT_IN_NAME = re.compile(rf"(?:^|[_.-])({'|'.join(SPLIT_NAMES)})(?![a-z])", re.IGNORECASE)
_SPLIT_AT_START = re.compile(r"^([A-Za-z]+)")
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
    tars = _web_dataset(entries)
    files = _without_records(files, tars) or tars or _lone_feed(entries)
    if len(files) > 1 and (alike := tables_alike(folder, files, reading)):
        return [SourceTable(table, split, photo_root(table, folder), f"{place}/{table.place}") for table in alike]
    if files:
        return [_folder_table(entry, reading, split, folder, place) for entry in _choose_tables(folder, files)]
    described = _described_below(folder)
    if described:
        tables = [_described(path, reading, _split_of(path, folder) or split, top) for path in described]
        return _noted(tables, _not_described(folder, described))
    return _photos_or_below(folder, folders, reading, split, top, place)


def _lone_feed(entries: Sequence[Path]) -> list[Path]:
    """The one XML file of a folder, unless it is about a photo there."""
    feeds = [entry for entry in entries if entry.is_file() and suffix_of(entry) == ".xml"]
    photos = {entry.stem for entry in entries if entry.suffix.lower() in PHOTO_SUFFIXES}
    return feeds if len(feeds) == 1 and feeds[0].stem not in photos else []


def _web_dataset(entries: Sequence[Path]) -> list[Path]:
    """The shards of a WebDataset, where all archives are such."""
    tars = [entry for entry in entries if entry.is_file() and entry.suffix.lower() == ".tar"]
    return tars if tars and all(map(is_web_dataset, tars)) else []


def _without_records(files: list[Path], tars: Sequence[Path]) -> list[Path]:
    """The tables of a folder but those that img2dataset writes for each of its shards: `00000.parquet`, `00000_stats.json`."""
    shards = {tar.stem for tar in tars}
    return [path for path in files if path.stem.removesuffix("_stats") not in shards]


def may_be_data(name: str) -> bool:
    """Whether a file in an archive is unpacked: a table, a photo, or of no suffix."""
    suffix = suffix_of(Path(name))
    return suffix in PHOTO_SUFFIXES or suffix in (*SUFFIXES, "", ".xml", ".txt", ".tar", ".yaml", ".yml", ".caption")


def _photos_or_below(
    folder: Path, folders: Sequence[Path], reading: Reading, split: str | None, top: Path, place: str
) -> list[SourceTable]:
    """A folder without a table: photos, or the one folder that holds all, as an unpacked archive or a hub's `data` does."""
    lone = folders[0] if len(folders) == 1 and not any(entry.is_file() for entry in folder.iterdir()) else None
    if lone is not None and (_has_tables(lone) or any(entry.name.lower() in SPLIT_NAMES for entry in lone.iterdir())):
        return folder_tables(lone, reading, split, top)
    annotations = folder / "annotations"  # as COCO's archives have them, beside the folders of pictures
    if annotations.is_dir() and (tables := [path for path in sorted(annotations.iterdir()) if is_table(path)]):
        chosen = _choose_annotations(annotations, tables)
        return [_folder_table(path, reading, split, folder, place, _SPLIT_IN_NAME) for path in chosen]
    if split is None and (parts := _splits_of_images(folder)):
        found = []
        for part in parts:
            if (images := folder_of_photos(part, top)).count:
                table = SourceTable(images, SPLIT_NAMES[part.name.lower()], part.resolve(), f"{place}/{part.name}")
                found += _noted([table], images.passed_over())
        return found
    images = folder_of_photos(folder, top)
    if images.count:
        return _noted([SourceTable(images, split, folder.resolve(), place)], images.passed_over())
    below = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_table(path)]
    if len(below) > 1 and (alike := tables_alike(folder, below, reading)):
        return [SourceTable(table, split, table.path.parent.resolve(), f"{place}/{table.place}") for table in alike]
    data = folder / "data"
    return folder_tables(data, reading, split, top) if data.is_dir() else []


def _splits_of_images(folder: Path) -> list[Path]:
    """The folders of `images/train`, `images/val`, as YOLO has them; none where other things are there."""
    images = folder / "images"
    parts = sorted(images.iterdir()) if images.is_dir() else []
    return parts if parts and all(part.is_dir() and part.name.lower() in SPLIT_NAMES for part in parts) else []


def _choose_annotations(folder: Path, tables: list[Path]) -> list[Path]:
    """The files of all splits, such as `captions_train2017.json`, where they are of one kind."""
    if all(_SPLIT_IN_NAME.search(path.stem) for path in tables) and len({_SPLIT_IN_NAME.sub("", p.stem) for p in tables}) == 1:
        return tables
    return _choose_tables(folder, tables)


def _folder_table(
    path: Path, reading: Reading, split: str | None, folder: Path, place: str, splits: re.Pattern[str] = _SPLIT_AT_START
) -> SourceTable:
    """A table with the split that its name has, where `splits` finds it, and the folder of its photos in `folder`."""
    found = splits.search(path.stem)
    named = found[1] if found and found[1].lower() in SPLIT_NAMES else ""
    table = open_table(path, reading)
    return SourceTable(table, split or SPLIT_NAMES.get(named.lower()), photo_root(table, folder, named), f"{place}/{path.name}")


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
