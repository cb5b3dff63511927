"""What kind of table a file is, by its first bytes before its name: an export may be called anything."""

from __future__ import annotations

import codecs
from pathlib import Path

from mlx_phi3v.errors import UserError

from .archives import archive_kind
from .byte_streams import open_bytes
from .encodings import read_mark
from .markup_sheets import has_table, is_xml_sheet
from .sheet_table import SUFFIXES as SHEETS

_BY_SUFFIX = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".xml": "xml", ".rss": "xml", ".atom": "xml",
    ".tar": "tar", ".zip": "zip",
} | dict.fromkeys(SHEETS, "sheet")  # fmt: skip
_BY_START = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xd0\xcf\x11\xe0": "sheet"}
_PAGES = (b"<!doctype html", b"<html", b"<table", b"<head", b"<body", b"<div")
_MARKUP = (b"<?xml", b"<rss", b"<feed", b"<products", b"<items", b"<catalog", b"<yml_catalog")


def file_kind(path: Path, suffix: str) -> str:
    """csv, tsv, json, parquet, arrow, sheet, html, xml-sheet, xml, zip, tar, or "" where it is none.

    Raises UserError for a web page without a table.
    """
    with open_bytes(path) as file:
        start = file.read(512)
    for magic, kind in _BY_START.items():
        if start.startswith(magic):
            return kind
    if start.startswith(b"PK\x03\x04"):
        return archive_kind(path) or "sheet"
    if start[257:262] == b"ustar":
        return "tar"
    named = _BY_SUFFIX.get(suffix, "")
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if is_xml_sheet(start):
        return "xml-sheet"
    if text.startswith(_PAGES):
        if has_table(path):
            return "html"
        raise UserError(f"{path} is a web page; open it in a spreadsheet and save its table as CSV UTF-8 or XLSX")
    if text.startswith(_MARKUP) and named in ("", "csv", "tsv", "sheet"):
        return "xml"
    is_text = bool(start) and (read_mark(start) is not None or b"\0" not in start)
    if named == "sheet" and is_text and b"\t" in start:
        return "tsv"  # many shops call tab-separated text .xls
    if named or not is_text:
        return named
    return "json" if text[:1] in (b"{", b"[") else "xml" if text[:1] == b"<" else _text_kind(start)


def _text_kind(start: bytes) -> str:
    """A text of unknown name is a table where its first line holds a delimiter."""
    encoding = read_mark(start) or "latin-1"
    lines = start.decode(encoding, "replace").splitlines()
    return "csv" if len(lines) > 1 and any(mark in lines[0] for mark in ",;\t|") else ""
