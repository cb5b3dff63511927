"""Table files by their kind, read row by row: CSV, JSON, Parquet, Arrow, sheets, XML, WebDataset."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.errors import UserError

from .annotations import annotated
from .arrow_tables import ArrowTable, ParquetTable
from .coco import CocoTable
from .reading import sheet_table
from .reading.byte_streams import COMPRESSED
from .reading.csv_table import CsvTable
from .reading.file_kind import file_kind
from .reading.json_file import JsonFile
from .reading.json_table import JsonTable
from .reading.options import Reading as Reading
from .reading.web_dataset import WebDatasetTable, is_web_dataset
from .reading.xml_table import XmlTable
from .row import Table as Table
from .row import whole

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")
_DATABASES = (".db", ".sqlite", ".sqlite3", ".sql", ".mdb", ".accdb", ".dump")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow", ".feather", *sheet_table.SUFFIXES)


def open_table(path: Path, reading: Reading | None = None) -> Table:
    """A table file by its content and its suffix; text may be compressed. Raises UserError where it cannot be read.

    What an annotation tool wrote has the columns of its annotations.
    """
    reading = reading or Reading()
    return annotated(_table(path, reading), quick=reading.quick)


def _table(path: Path, reading: Reading) -> Table:
    try:
        if suffix_of(path) in _DATABASES:
            raise UserError(f"{path} is a database; export its table as CSV or JSON, and give that")
        with whole(path):
            kind = file_kind(path, suffix_of(path))
        if kind == "json":
            file = JsonFile(path)
            return CocoTable(file) if file.shape.is_coco else JsonTable(file, quick=reading.quick)
        if kind == "parquet":
            return ParquetTable(path)
        if kind == "arrow":
            return ArrowTable(path)
        if kind in ("sheet", "html", "xml-sheet"):
            return sheet_table.SheetTable(path, form=kind, sheet=reading.sheet, header_line=reading.header_line)
        if kind == "xml":
            return XmlTable(path, quick=reading.quick)
        if kind == "tar" and is_web_dataset(path):
            return WebDatasetTable(path)
        if kind in ("csv", "tsv"):
            return CsvTable(path, reading, tabs=kind == "tsv")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    raise UserError(
        f"{path} is of no known kind; give CSV, TSV, JSON, Parquet, Arrow, XLSX, ODS, XML, or a zip or tar archive of these"
    )


def is_table(path: Path) -> bool:
    """Whether a file of a folder is a table by its suffix."""
    return suffix_of(path) in SUFFIXES


def suffix_of(path: Path) -> str:
    """The suffix of a file in lower case, without that of a compression behind one of text."""
    names = [suffix.lower() for suffix in path.suffixes]
    if names[-1:] and names[-1] in COMPRESSED and names[-2:-1] and names[-2] in (*TEXT_SUFFIXES, ".xml", ".txt", ".tar"):
        names = names[:-1]
    return names[-1] if names else ""
