"""Parquet and Arrow files and `datasets`, a few rows at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .row import Row, RowError, first_line

_BATCH_ROWS = 256
_BROKEN = (pa.ArrowException, OSError, ValueError)


class ParquetTable:
    """A Parquet file, read a few rows at a time. Labels that `datasets` stores as numbers are given by their names."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.path = path
        try:
            with parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                self.count = file.metadata.num_rows
        except _BROKEN as error:
            raise UserError(f"{path} is not a whole Parquet file ({first_line(error)}); get it again") from None
        self.labels = label_names(schema)
        self.columns = labelled_columns(schema, self.labels)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        import pyarrow.parquet as parquet

        numbers = itertools.count(1)
        with parquet.ParquetFile(self.path) as file:
            for batch in _sound(self.path, file.iter_batches(_BATCH_ROWS)):
                yield from zip(numbers, _batch_rows(with_names(batch, self.labels)))


class ArrowTable:
    """An Arrow file or stream, as `pyarrow.ipc`, `datasets` and Feather write it."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._open() as (schema, batches):
                self.count = sum(batch.num_rows for batch in batches)
        except _BROKEN as error:
            raise UserError(f"{path} is not a whole Arrow file ({first_line(error)}); get it again") from None
        self.labels = label_names(schema)
        self.columns = labelled_columns(schema, self.labels)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with pa.memory_map(str(self.path)) as source:
            start = source.read(6)
            source.seek(0)
            if start == b"ARROW1":
                file = pa.ipc.open_file(source)
                yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                stream = pa.ipc.open_stream(source)
                yield stream.schema, iter(stream)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        numbers = itertools.count(1)
        with self._open() as (_, batches):
            for batch in _sound(self.path, map(checked, batches)):
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from zip(numbers, _batch_rows(with_names(batch.slice(start, _BATCH_ROWS), self.labels)))


def _sound(path: Path | str, batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of a file; one that cannot be read ends the command in one sentence."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except _BROKEN as error:
            raise UserError(f"{path} is corrupt ({first_line(error)}); get it again") from None
        yield batch


def checked(batch: Any) -> Any:
    """A batch or table whose offsets lie in its buffers: Arrow trusts those of a file, and would read beyond.

    Text that is no UTF-8 passes, as it costs one row alone. Raises pa.ArrowInvalid.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        for column in batch.columns:
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                chunk.view(_as_bytes(chunk.type)).validate(full=True)
    return batch


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with bytes in place of text, at any depth."""
    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_as_bytes(kind.key_type), _as_bytes(kind.item_type))
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _as_bytes(kind.value_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_as_bytes(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        return (pa.list_ if types.is_list(kind) else pa.large_list)(_as_bytes(kind.value_type))
    return plain.get(kind, kind)


def label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the labels of each column that `datasets` declares a ClassLabel, in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: names for name in schema.names if (names := _names_of(features.get(name))) is not None}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _names_of(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names_of(feature[0])
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _names_of(feature.get("feature"))
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names] if isinstance(names, list) else None


def labelled_columns(schema: pa.Schema, labels: Mapping[str, list[str]]) -> dict[str, pa.DataType]:
    return {field.name: _named(field.type) if field.name in labels else field.type for field in schema}


def _named(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_named(kind.value_type))
    return pa.string() if pa.types.is_integer(kind) else kind


def with_names(batch: Any, labels: Mapping[str, list[str]]) -> Any:
    """A batch or table whose columns of labels hold names; a number that has none, such as -1, becomes null."""
    for name, names in labels.items():
        place = batch.schema.get_field_index(name)
        kind = batch.schema.field(place).type
        if _named(kind) != kind:
            labels_by_name = pa.array([named(value, names) for value in batch.column(place).to_pylist()], _named(kind))
            batch = batch.set_column(place, name, labels_by_name)
    return batch


def named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [named(item, names) for item in value]
    return names[value] if value is not None and 0 <= value < len(names) else None


def _batch_rows(batch: Any) -> list[Row]:
    """The rows of a batch or table; one that holds a value which Python cannot is a RowError, and only that one."""
    try:
        rows: list[Row] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError, TypeError, pa.ArrowException):
        return [_batch_row(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _batch_row(row: Any) -> Row:
    for name in row.column_names if isinstance(row, pa.Table) else row.schema.names:
        try:
            row.column(name).to_pylist()
        except UnicodeDecodeError:
            return RowError("text_not_utf8", f"column {name}")
        except (ValueError, OverflowError) as error:
            return RowError("value_out_of_range", f"column {name}: {first_line(error)}")
        except (TypeError, pa.ArrowException) as error:
            return RowError("row_unreadable", f"column {name}: {first_line(error)}")
    whole: Row = row.to_pylist()[0]
    return whole


class DatasetTable:
    """One split of a `datasets.Dataset`; photos stay as bytes or paths, undecoded, and labels are given by their names.

    `own_photo(path)`: the bytes of a photo that the data set itself fetched, or None for a file that it did not. Without
    it paths stay paths.
    """

    kind = "datasets"

    def __init__(self, dataset: Any, own_photo: Callable[[str], bytes | None] | None = None) -> None:
        self.dataset = dataset.with_format("arrow")
        self.place: Path | str = next((Path(file["filename"]) for file in dataset.cache_files), "the data set")
        schema = dataset.features.arrow_schema
        self.labels = label_names(schema)
        self.columns = labelled_columns(schema, self.labels)
        self.count = len(dataset)
        self.photos = image_columns(dataset.features)
        self._own_photo = own_photo

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        numbers = itertools.count(1)
        for table in _sound(self.place, map(checked, self.dataset.iter(batch_size=_BATCH_ROWS))):
            for row in _batch_rows(with_names(table, self.labels)):
                yield next(numbers), row if isinstance(row, RowError) else self.with_photos(row)

    def with_photos(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the bytes of the photos that the data set fetched in place of their paths."""
        if self._own_photo is not None:
            for column in self.photos:
                row[column] = self._read(row[column])
        return row

    def _read(self, photo: Any) -> Any:
        if isinstance(photo, list):
            return [self._read(item) for item in photo]
        if isinstance(photo, Mapping) and photo.get("bytes") is None and isinstance(photo.get("path"), str):
            assert self._own_photo is not None
            data = self._own_photo(photo["path"])
            return photo if data is None else {"bytes": data, "path": photo["path"]}
        return photo


def image_columns(features: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that `datasets` declares an Image, or a list of them."""
    return tuple(name for name, feature in features.items() if _is_image(feature))


def _is_image(feature: Any) -> bool:
    if isinstance(feature, list) and feature:
        return _is_image(feature[0])
    if type(feature).__name__ in ("Sequence", "List", "LargeList"):
        return _is_image(feature.feature)
    return type(feature).__name__ == "Image"
