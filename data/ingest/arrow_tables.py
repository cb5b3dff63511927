"""Parquet files and `datasets`, a few rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlx_phi3v.errors import UserError

from .row import Row, RowError, first_line

_BATCH_ROWS = 256


class ParquetTable:
    """A Parquet file, read a few rows at a time."""

    kind = "parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.path = path
        try:
            with parquet.ParquetFile(path) as file:
                self.columns = {field.name: field.type for field in file.schema_arrow}
                self.count = file.metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path} is not a whole Parquet file ({first_line(error)}); get it again") from None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        import pyarrow.parquet as parquet

        numbers = itertools.count(1)
        with parquet.ParquetFile(self.path) as file:
            batches = file.iter_batches(_BATCH_ROWS)
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (pa.ArrowException, OSError, ValueError) as error:
                    raise UserError(f"{self.path} is corrupt ({first_line(error)}); get it again") from None
                yield from zip(numbers, _batch_rows(batch))


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
    """One split of a `datasets.Dataset`; photos stay as bytes or paths, undecoded."""

    kind = "datasets"

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset.with_format("arrow")
        self.columns = {field.name: field.type for field in dataset.features.arrow_schema}
        self.count = len(dataset)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its number, from 1."""
        numbers = itertools.count(1)
        for table in self.dataset.iter(batch_size=_BATCH_ROWS):
            yield from zip(numbers, _batch_rows(table))
