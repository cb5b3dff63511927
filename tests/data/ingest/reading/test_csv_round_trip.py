"""What csv, pandas, spreadsheets and MySQL write is read back as it was, or refused: no phantom row, none lost in silence."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.ingest.reading.csv_table import CsvTable
from data.ingest.row import RowError
from mlx_phi3v.errors import UserError

Rows = list[list[str]]
NAMES = ["sku", "title", "price EUR", "größe", "image"]

MARKS = ['"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\\", '\\"', "\\\\", "\\n", "\\N", "'", " ", "\u2028", "\x0b", "#", "="]
WORDS = ["a", "7", "Red shirt", "5.00", "x.png", "🧣", "é", "漢", "sep=;", "N", "<b>"]
PIECES = st.sampled_from([*MARKS, *WORDS])
TEXT = st.lists(PIECES, max_size=8).map("".join)
# Numbers and photos as a shop has them: they are what tells a row from the lines of a text.
TYPED = st.sampled_from(["5.00", "1250", "12,50", "p1.png", "https://a.example/1.jpg", ""])


@st.composite
def tables(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> Rows:
    width = draw(st.integers(2, 5))
    cells = [draw(st.sampled_from([text, TYPED])) for _ in range(width)]
    cells[draw(st.integers(0, width - 1))] = text
    return draw(st.lists(st.tuples(*cells).map(list), min_size=1, max_size=8))


def csv_writer(rows: Rows, delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL, end: str = "\r\n") -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([NAMES[: len(rows[0])], *rows])
    return buffer.getvalue().encode()


def pandas_writer(rows: Rows, **options: Any) -> bytes:
    frame = pd.DataFrame(rows, columns=NAMES[: len(rows[0])])
    return str(frame.to_csv(lineterminator="\r\n", **options)).encode()


def excel(rows: Rows, encoding: str = "utf-8-sig", delimiter: str = ";") -> bytes:
    """As Excel saves: quotes only where they are needed, rows end in CR LF, a line's end inside a cell is LF."""

    def cell(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if any(c in value for c in f'"\r\n{delimiter}') else value

    lines = [delimiter.join(map(cell, row)) for row in [NAMES[: len(rows[0])], *rows]]
    return "".join(line + "\r\n" for line in lines).encode(encoding)


def mysql(rows: Rows, delimiter: str = ",", optionally: bool = False) -> bytes:
    """As SELECT ... INTO OUTFILE ... ENCLOSED BY '"' ESCAPED BY '\\\\' writes."""

    def cell(value: str) -> str:
        if optionally and value.replace(".", "").isdecimal():
            return value
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\0") + '"'

    lines = [delimiter.join(map(cell, row)) for row in [NAMES[: len(rows[0])], *rows]]
    return "".join(line + "\n" for line in lines).encode()


def python_escapes(rows: Rows) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, escapechar="\\", doublequote=False, quoting=csv.QUOTE_ALL)
    writer.writerows([NAMES[: len(rows[0])], *rows])
    return buffer.getvalue().encode()


# What writes a table that has one reading; it must come back whole.
STANDARD: dict[str, Callable[[Rows], bytes]] = {
    "csv": csv_writer,
    "csv, all quoted": lambda rows: csv_writer(rows, quoting=csv.QUOTE_ALL),
    "csv, semicolons": lambda rows: csv_writer(rows, ";"),
    "csv, tabs": lambda rows: csv_writer(rows, "\t"),
    "csv, bars": lambda rows: csv_writer(rows, "|"),
    "pandas": lambda rows: pandas_writer(rows, index=False),
    "pandas, index": pandas_writer,
    "pandas, quoted": lambda rows: pandas_writer(rows, index=False, quoting=csv.QUOTE_NONNUMERIC, sep=";"),
    "excel": excel,
    "excel, commas": lambda rows: excel(rows, delimiter=","),
    "excel, unicode text": lambda rows: excel(rows, "utf-16", "\t"),
}
ESCAPING: dict[str, Callable[[Rows], bytes]] = {
    "mysql": mysql,
    "mysql, optionally": lambda rows: mysql(rows, optionally=True),
    "mysql, tabs": lambda rows: mysql(rows, "\t"),
    "python, escapes": python_escapes,
}


def read(path: Path, data: bytes) -> list[dict[str, Any] | RowError] | None:
    """The rows, or None where the file is refused."""
    path.write_bytes(data)
    try:
        return [row for _, row in CsvTable(path).rows()]
    except UserError:
        return None


def assert_exact_or_refused(rows: Rows, found: list[dict[str, Any] | RowError] | None) -> int:
    """The number of rows that were refused. Rows come in order; each that is missing has its reason."""
    if found is None:
        return len(rows)
    expected = [dict(zip(NAMES, row)) for row in rows]
    while expected and not any(expected[-1].values()):
        expected.pop()  # empty rows at the end are none
    refused = place = 0
    for row in found:
        if isinstance(row, RowError):
            refused += 1
            continue
        assert row in expected[place:], f"a phantom row {row}"
        place = expected.index(row, place) + 1
    missing = len(expected) - (len(found) - refused)
    assert (missing == 0) == (refused == 0), f"{missing} rows are missing, {refused} refused"
    assert missing >= refused
    return missing


def folder_of(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "round-trip.csv"


@settings(max_examples=300)
@given(rows=tables(), writer=st.sampled_from(sorted(STANDARD)))
@example(rows=[["1", "a,2\n1,b", "2"], ["2", "c", "3"], ["3", "d", "4"], ["4", "e", "5"]], writer="csv")
def test_a_standard_table_is_read_back_or_refused(rows: Rows, writer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_exact_or_refused(rows, read(folder_of(tmp_path_factory), STANDARD[writer](rows)))


@settings(max_examples=300)
@given(rows=tables(), writer=st.sampled_from(sorted(ESCAPING)))
@example(rows=[["a\\b", "c"]], writer="mysql")
@example(rows=[["a\\", "c"], ['"', "\\"]], writer="mysql")
def test_a_table_with_escapes_is_read_back_or_refused(
    rows: Rows, writer: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_exact_or_refused(rows, read(folder_of(tmp_path_factory), ESCAPING[writer](rows)))


TITLE = st.lists(st.sampled_from(["red", '5"', '"Retro"', "shirt,", "wool;", "\n", "🧣", "1.250", "a|b", "O'Neil"]), max_size=6)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(st.integers(1, 999).map(str), TITLE.map(" ".join)).map(list), min_size=1, max_size=30),
    writer=st.sampled_from(sorted(STANDARD)),
)
def test_the_table_of_a_shop_is_read_back_whole(rows: Rows, writer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert assert_exact_or_refused(rows, read(folder_of(tmp_path_factory), STANDARD[writer](rows))) == 0


@pytest.mark.parametrize("writer", [*STANDARD, *ESCAPING])
def test_cells_of_200_kib_are_read_back_whole(writer: str, tmp_path: Path) -> None:
    long = 'He said "hi", twice; and\nleft a\ttab. ' * 6000  # 230 KB
    rows = [["1", long, "5.00"], ["2", "A hat", "7.00"], ["3", "x" * 300_000, "8.00"], ["4", '"' * 200_000, "9.00"]]
    found = read(tmp_path / "long.csv", (STANDARD | ESCAPING)[writer](rows))
    assert found == [dict(zip(NAMES, row)) for row in rows]
