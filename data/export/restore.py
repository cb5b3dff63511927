"""Make the catalogue of an export again: the same ids, fields, photos and splits, by its fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.catalogue import PRODUCT, SPLITS
from mlx_phi3v.catalogue_checks import check_kinds
from mlx_phi3v.documents import inside, plain
from mlx_phi3v.errors import UserError
from mlx_phi3v.files import atomic_folder
from mlx_phi3v.hub.contents import EXPORT_FILE
from mlx_phi3v.progress import Progress, note
from mlx_phi3v.task import Task
from mlx_phi3v.text import storable

from ..writer import CatalogueWriter, made_before
from .export_record import ExportRecord, photo_suffix, read_record

_FILES = [EXPORT_FILE, "data/*.parquet"]
_GROUP_ROWS = 16
_BROKEN = (pa.ArrowException, OSError, ValueError)


def exported_folder(source: str, revision: str | None = None) -> Path | None:
    """The folder of an exported catalogue that `source` names, or of one on the hub, downloaded; None for anything else.

    Of another data set of the hub nothing is downloaded, and what cannot be reached is left to `datasets` to say.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path if (path / EXPORT_FILE).is_file() else None
    from mlx_phi3v.hub.download import download_dataset

    return download_dataset(source, EXPORT_FILE, _FILES, revision)


def restore(folder: Path, output: Path, *, source: str, as_json: bool = False) -> dict[str, Any]:
    """Write the catalogue of the export in `folder` -> its `catalogue.json`. One that is there already stays as it is.

    Raises UserError where a file is missing or corrupt, or the rows are not those that were exported.
    """
    record = read_record(folder)
    assert record is not None
    entries = {"fingerprint": record.rows_fingerprint, "source": _origin(source, record)}
    if made := made_before(output, entries):
        note(f"{output} is there already, made of the same export; nothing was done")
        return made
    with atomic_folder(output) as place:
        info = _write(folder, record, place / "whole", output.name, source, as_json)
        if info["fingerprint"] != record.rows_fingerprint:
            raise UserError(f"the rows in {folder} are not those that were exported; get its files again")
        for path in (place / "whole").iterdir():
            path.rename(place / path.name)
        (place / "whole").rmdir()
    return info


def _origin(source: str, record: ExportRecord) -> dict[str, Any]:
    return {"kind": "export", "name": storable(source), "identity": record.fingerprint}


def _write(folder: Path, record: ExportRecord, output: Path, name: str, source: str, as_json: bool) -> dict[str, Any]:
    task, schema = _task(record, folder), _schema(folder, record)
    extra = {field.name: field.type for field in schema if field.name not in ("id", "images", PRODUCT)}
    rows = sum(split.rows for split in record.splits.values())
    with (
        CatalogueWriter(
            output, task, name=name, source=_origin(source, record), settings={}, extra=extra, products=PRODUCT in schema.names
        ) as writer,
        Progress("restoring", rows, as_json=as_json) as bar,
    ):
        for split, row in _rows(folder, record):
            row["images"] = [_stored(writer, photo, folder) for photo in row["images"] or []]
            writer.add(split, row)
            bar.advance()
    return writer.info


def _task(record: ExportRecord, folder: Path) -> Task:
    try:
        task = Task.from_dict(record.task)
        check_kinds(task)
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / EXPORT_FILE}: {error}; get it again") from None
    return task


def _schema(folder: Path, record: ExportRecord) -> pa.Schema:
    """The columns of all files. Raises UserError where two differ, or they are not an export's."""
    import pyarrow.parquet as parquet

    schema: pa.Schema | None = None
    for split, files in record.splits.items():
        if split not in SPLITS:
            raise UserError(f"{folder / EXPORT_FILE} has a split {plain(split)}; it may have {', '.join(SPLITS)}")
        for name in files.files:
            path = _file(folder, name)
            try:
                found = parquet.read_schema(path)
            except _BROKEN:
                raise UserError(f"{path} is not a whole Parquet file; get it again") from None
            if schema is not None and not found.equals(schema):
                raise UserError(f"{path} has other columns than the file before it; get both again")
            schema = found
    if schema is None or not {"id", "images"} <= set(schema.names):
        raise UserError(f"{folder} holds no rows of a catalogue; export it again")
    return schema


def _file(folder: Path, name: str) -> Path:
    path = inside(folder, name, folder / EXPORT_FILE)
    if not path.is_file():
        raise UserError(f"{path} is missing, and {EXPORT_FILE} names it; get it again")
    return path


def _rows(folder: Path, record: ExportRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as parquet

    for split, files in record.splits.items():
        for name in files.files:
            path = _file(folder, name)
            try:
                with parquet.ParquetFile(path) as file:
                    for batch in file.iter_batches(_GROUP_ROWS):
                        yield from ((split, row) for row in batch.to_pylist())
            except (*_BROKEN, OverflowError, TypeError):
                raise UserError(f"{path} is corrupt; get it again") from None


def _stored(writer: CatalogueWriter, photo: Any, folder: Path) -> str:
    data = photo.get("bytes") if isinstance(photo, Mapping) else None
    if not isinstance(data, bytes):
        raise UserError(f"{folder} has a row whose photo is not inside; export it again")
    return writer.add_image(data, photo_suffix(photo.get("path")))
