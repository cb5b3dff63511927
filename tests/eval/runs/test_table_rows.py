"""Tables of other tools: what cannot be read is named by file and line, what can is read whole."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from data.ingest.reading.options import Reading
from eval.runs.imported import parse_field
from eval.runs.table_rows import read_rows
from mlx_phi3v.errors import UserError
from mlx_phi3v.task import Field, ParsedField

LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.jsonl", b'{"id": "a"}\n' + b"[" * 100_000 + b"\n", "line 2 is nested too deeply"),
        ("p.jsonl", b'{"id": "a", "text": "x\\ud83d"}\n', "line 1: text is .* half a surrogate pair"),
        ("p.jsonl", b'{"id": "a", "id": "b"}\n', "line 1: id is given twice"),
        ("p.jsonl", b'{"id": "a", "price": ' + b"9" * 5000 + b"}\n", "line 1: price is a number of 5000 digits"),
        ("p.jsonl", b'{"id": "a", "price": 1e999}\n', "line 1: price is infinite"),
        ("p.jsonl", b'\n{"id": "\xff"}\n', "line 2 is not UTF-8"),
        ("p.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("p.csv", b"id,text\na,x\nb,\xff\n", "is not UTF-8 text .* give its encoding, such as --encoding"),
        ("p.csv", b"id,text\n" + "a,ä\n".encode() * 99 + b"b,\xff\n", "line 101 is not UTF-8"),
        ("p.csv", b"id,text\na,x\nb,y\0\n", "line 3 holds a NUL"),
        ("p.csv", b'id,text\na,"x"y\n', "line 2 is no valid CSV"),
        ("p.csv", b'id,text\na,x\nb,"y\n', "line 3 is no valid CSV"),
        ("p.csv", b"id,text,id\na,x,b\n", "line 1 has the column 'id' twice"),
        ("p.tsv", b"id\ttext\na\tx\ty\n", "line 2 has more cells"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} {sentence}"):
        list(read_rows(tmp_path / name))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").mkdir()
    with pytest.raises(UserError, match=r"p\.csv is a folder; give a file"):
        read_rows(tmp_path / "p.csv")
    with pytest.raises(UserError, match=r"q\.csv does not exist"):
        read_rows(tmp_path / "q.csv")


def test_how_to_read_csv_is_refused_for_json_lines(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match="--header-line is of CSV files and workbooks; leave it out for --input"):
        read_rows(tmp_path / "p.jsonl", Reading(header_line=2))
    assert list(read_rows(tmp_path / "p.jsonl", Reading())) == [(1, {"id": "a"})]


def test_long_cells_short_rows_and_nan_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(f"\ufeffid,text\r\na,{LONG}\r\n\r\nb\r\n".encode())
    assert list(read_rows(tmp_path / "p.csv")) == [(2, {"id": "a", "text": LONG}), (4, {"id": "b", "text": None})]
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "price": NaN}\n')
    assert list(read_rows(tmp_path / "p.jsonl")) == [(1, {"id": "a", "price": None})]


@pytest.mark.parametrize("value", [1e308, -1e200, float("inf"), 10**400])
def test_a_number_that_no_run_may_hold_is_malformed(value: float) -> None:
    assert parse_field(Field("price", "number"), value) == ParsedField(None, "malformed")
    assert parse_field(Field("price", "number"), 1e100) == ParsedField(1e100, "ok")


def test_a_price_of_more_digits_than_a_float_holds_is_malformed() -> None:
    assert parse_field(Field("price", "number"), "9" * 400) == ParsedField(None, "malformed")


SAME = [{"id": "a", "price": "1.299,00"}, {"id": "b", "price": "12,5"}]


@pytest.mark.parametrize(
    "content",
    [
        b"id;price\na;1.299,00\nb;12,5\n",
        'id;price\r\na;"1.299,00"\r\nb;12,5\r\n;\r\n'.encode("utf-8-sig"),
        b"sep=;\nid;price\na;1.299,00\nb;12,5\n",
        "id\tprice\na\t1.299,00\nb\t12,5\n".encode("utf-16"),
        b"My predictions;\n;\nid;price\na;1.299,00\nb;12,5\n",
        b'id,price\na,"1.299,00"\nb,"12,5"\n',
    ],
)
def test_a_table_is_read_however_a_spreadsheet_wrote_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    assert [row for _, row in read_rows(tmp_path / "p.csv")] == SAME


def test_the_letters_of_an_older_spreadsheet_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "id;title\na;Mäntel und Überzieher\nb;Größe für Große\n"
    (tmp_path / "p.csv").write_bytes(text.encode("cp1252"))
    assert [row["title"] for _, row in read_rows(tmp_path / "p.csv")] == ["Mäntel und Überzieher", "Größe für Große"]
    assert "is read as cp1252" in capsys.readouterr().err


def test_an_answer_keeps_its_backslashes_and_quotes_in_rfc_4180(tmp_path: Path) -> None:
    answers = ["c:\\temp\\new", 'say ""no""', "\\N", "one\ntwo, three\n", 'x\\"']
    rows = [["id", "text"], *([str(i), answer] for i, answer in enumerate(answers))]
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert [row["text"] for _, row in read_rows(tmp_path / "p.csv")] == answers


def test_another_way_to_quote_counts_where_it_alone_reads_every_row(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b'"id","text"\n"a","say \\"no\\", twice"\n"b","x"\n')
    assert [row["text"] for _, row in read_rows(tmp_path / "p.csv")] == ['say "no", twice', "x"]


def test_the_header_is_where_the_wanted_column_is(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"id,answer\na,x,y,z\n")
    with pytest.raises(UserError, match="line 2 has more cells than the header"):
        list(read_rows(tmp_path / "p.csv", column="id"))
    (tmp_path / "p.csv").write_bytes(b"made by,me\nid,answer\n1,x\n2,y\n")
    assert [row["answer"] for _, row in read_rows(tmp_path / "p.csv", column="id")] == ["x", "y"]


def test_a_workbook_and_parquet_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"id": ["a", "b"], "price": [1.5, None]}), tmp_path / "p.parquet")
    assert [row for _, row in read_rows(tmp_path / "p.parquet")] == [{"id": "a", "price": 1.5}, {"id": "b", "price": None}]


def test_a_row_that_ingest_would_reject_refuses_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"id": "a"}, 5]')
    with pytest.raises(UserError, match=r"p\.json line 2 is no row int; mend that row"):
        list(read_rows(tmp_path / "p.json"))
