"""A CSV file is read as its owner would: header, delimiter and quotes are found, and no row is lost without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.ingest.reading import byte_streams, csv_file, csv_records
from data.ingest.reading.csv_table import CsvTable
from data.ingest.reading.options import Reading
from data.ingest.row import RowError
from mlx_phi3v.errors import UserError
from tests.helpers.tables import column_values

HEAD = "sku,title,price,image\n"
POTS = "".join(f"{k},Pot {k},{k}.50,p{k}.png\n" for k in range(5))
POT = {"sku": "0", "title": "Pot 0", "price": "0.50", "image": "p0.png"}


def open_csv(folder: Path, text: str | bytes, **reading: Any) -> CsvTable:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CsvTable(path, Reading(**reading))


def rows_of(table: CsvTable) -> list[dict[str, Any]]:
    return [row for _, row in table.rows() if isinstance(row, dict)]


def refused(table: CsvTable) -> list[tuple[int, str]]:
    return [(line, str(row)) for line, row in table.rows() if isinstance(row, RowError)]


@pytest.mark.parametrize(
    ("text", "names", "count"),
    [
        ("title,price\nPot,5\n", ["title", "price"], 1),
        ("\n \n,,\ntitle,price\nPot,5\n", ["title", "price"], 1),
        ("sep=;\r\ntitle;price\r\nPot;5,00\r\n", ["title", "price"], 1),
        ('"sep=|"\ntitle|price\nPot|5\n', ["title", "price"], 1),
        ("Pots of autumn,\ntitle,price\nPot,5\nPan,6\nCup,7\n", ["title", "price"], 3),
        ("Pots of autumn\nprinted on Monday\n\ntitle,price\nPot,5\nPan,6\nCup,7\n", ["title", "price"], 3),
        (
            "Export of products:;03/12/2025 14:30\n\nid;title;price;stock;image\n1;Pot;5;1;a.png\n2;Pan;6;2;b.png\n",
            ["id", "title", "price", "stock", "image"],
            2,
        ),
        (
            "Template=x,Version=2,Only for use,\nType,SKU,Name,Image\nfeed,item_sku,item_name,main_image_url\nA,P1,Pot,a.png\n",
            ["feed", "item_sku", "item_name", "main_image_url"],
            1,
        ),
        (",title,price\n0,Pot,5\n1,Pan,6\n", ["title", "price"], 2),
        ("title,price,\nPot,5,\nPan,6,\n", ["title", "price"], 2),
        ("title,price,,\nPot,5,x,\nPan,6,,\n", ["title", "price", "column_3"], 2),
        (",title\nA,Pot\nB,Pan\n", ["column_1", "title"], 2),
        ("title,price,title,title\nPot,5,a,b\n", ["title", "price", "title_2", "title_3"], 1),
        ("title,title_2,title\nPot,5,a\n", ["title", "title_2", "title_3"], 1),
        ('"title","price\n (EUR)"\nPot,5\n', ["title", "price (EUR)"], 1),
        ('"title","price"\n"1","Pot",5\n"2","Pan",6\n', ["title", "price"], 2),  # R
        ("Name;Preis (EUR, inkl. MwSt., netto)\nTopf;1.250\nPfanne;2.499,90\n", ["Name", "Preis (EUR, inkl. MwSt., netto)"], 2),
        ('title;"price, gross, in EUR"\nTopf;12,50\nPfanne;8,00\n', ["title", "price, gross, in EUR"], 2),
        ("title\tprice\nA, b; c\t5\nA, b; d\t6\n", ["title", "price"], 2),
        ("title,note\nA,a|b|c\nB,d|e|f\n", ["title", "note"], 2),
        ("title\nA|b\nB|c\n", ["title"], 2),
    ],
)
def test_the_columns_are_found(text: str, names: list[str], count: int, tmp_path: Path) -> None:
    table = open_csv(tmp_path, text)
    assert list(table.columns) == names
    assert [list(row) for row in rows_of(table)] == [names] * count and table.count == count


def test_a_header_in_the_middle_of_joined_files_is_no_row(tmp_path: Path) -> None:
    table = open_csv(tmp_path, "title,price\nPot,5\ntitle,price\ntitle,6\n")
    assert [row["price"] for row in rows_of(table)] == ["5", "6"]
    assert refused(table) == [(3, "header_again")]
    assert len(rows_of(open_csv(tmp_path, "title\nPot\ntitle\n"))) == 2  # of one column it may be a title


def test_a_note_says_that_the_first_line_is_a_title_and_a_flag_says_otherwise(tmp_path: Path) -> None:
    text = "Pots of autumn,\ntitle,price\nPot,5\nPan,6\nCup,7\n"
    assert "--header-line" in open_csv(tmp_path, text).notes[0]
    table = open_csv(tmp_path, text, header_line=1)
    assert list(table.columns) == ["Pots of autumn", "column_2"] and len(rows_of(table)) == 4
    assert list(open_csv(tmp_path, text, header_line=3).columns) == ["Pot", "5"]


@pytest.mark.parametrize(
    ("above", "header"),
    [
        (
            "#INFO,Version=0.0.2,\n#INFO Action is required.,,\n",
            "Action(SiteID=US|Country=US|Currency=USD|Version=1193|CC=UTF-8),Title,Price",
        ),
        ("# Required | An ID,# Required | A title,# Optional | A price\n", "code,label,amount"),
    ],
)
def test_comments_above_the_header_are_no_names(above: str, header: str, tmp_path: Path) -> None:
    table = open_csv(tmp_path, f"{above}{header}\nAdd,Ring,29.99\nAdd,Chain,19.99\n")
    assert list(table.columns) == header.split(",") and len(rows_of(table)) == 2


def test_a_header_may_begin_with_a_hash(tmp_path: Path) -> None:
    assert list(open_csv(tmp_path, "#,Name,Price\n1,Ring,5\n").columns) == ["#", "Name", "Price"]
    assert list(open_csv(tmp_path, "#id,name,price\na1,Ring,5\n").columns) == ["#id", "name", "price"]


def test_a_file_that_two_delimiters_cut_alike_is_refused_by_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--delimiter"):
        open_csv(tmp_path, "a,b;c\n1,2;3\n")
    assert list(open_csv(tmp_path, "a,b;c\n1,2;3\n", delimiter=";").columns) == ["a,b", "c"]


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ('5,"24"" monitor",25.00,p5.png', '24" monitor'),
        ('5,"24" monitor, black",25.00,p5.png', '24" monitor, black'),
        ('5,"Blue" shirt,25.00,p5.png', '"Blue" shirt'),
        ('5,24" monitor,25.00,p5.png', '24" monitor'),
        ('5,"The ""old"" one" ,25.00,p5.png', 'The "old" one'),
        ('5,"12 inch TV,25.00,p5.png', '"12 inch TV'),  # no cell of the file is in quotes: they are text
    ],
)
def test_a_quote_that_is_not_doubled_takes_no_row_along(line: str, title: str, tmp_path: Path) -> None:
    table = open_csv(tmp_path, f"{HEAD}{POTS}{line}\n{POTS}")
    assert [row["title"] for row in rows_of(table)] == [*(f"Pot {k}" for k in range(5)), title, *(f"Pot {k}" for k in range(5))]
    assert table.count == 11


@pytest.mark.parametrize("after", ["", POTS, '6,15" laptop,4.00,p6.png\n' + POTS, f'{POTS}6,"A pan, red",4.00,p6.png\n{POTS}'])
def test_a_quote_that_is_never_closed_costs_one_row(after: str, tmp_path: Path) -> None:
    quoted = '8,"A pot, blue",3.00,p8.png\n9,"A ""pot""",3.00,p9.png\n'  # so quotes are no text here
    table = open_csv(tmp_path, f'{HEAD}{POTS}{quoted}5,"12 inch TV,25.00,p5.png\n{after}')
    assert refused(table) == [(9, "malformed_row")]
    assert len(rows_of(table)) == 7 + after.count("\n")
    assert "12 inch" in next(row.value for _, row in table.rows() if isinstance(row, RowError))


def test_a_cell_that_could_be_two_rows_is_refused_with_its_lines(tmp_path: Path) -> None:
    table = open_csv(tmp_path, f'{HEAD}{POTS}5,"12 inch TV,25.00,p5.png\n6,Laptop 15",4.00,p6.png\n{POTS}')
    assert refused(table) == [(7, "quote_spans_rows")] and len(rows_of(table)) == 10


def test_a_text_of_several_lines_is_one_cell(tmp_path: Path) -> None:
    text = "Line one, red\nline two, blue\n\nline, four,\n"
    table = open_csv(tmp_path, f'{HEAD}{POTS}5,"{text}",25.00,p5.png\n{POTS}')
    assert [row["title"] for row in rows_of(table)][5] == text and table.count == 11
    assert [line for line, _ in table.rows()][-6:] == [7, 12, 13, 14, 15, 16]


def test_single_quotes_around_cells_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("title,price\n'Bag, red','12.50'\n'Hat ''L'' 12\" wide','9.00'\n")
    table = CsvTable(path)
    assert [row for _, row in table.rows()] == [
        {"title": "Bag, red", "price": "12.50"},
        {"title": "Hat 'L' 12\" wide", "price": "9.00"},
    ]
    assert any("single ones" in note for note in table.notes)


@pytest.mark.parametrize("line", ["'90s hat,9", "Rock 'n' roll,9", "\"'Love', red\",9"])
def test_an_apostrophe_is_text(line: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"title,price\n{line}\nLadies' bag,12\n{line}\n")
    rows = [row for _, row in CsvTable(path).rows()]
    assert rows[1] == {"title": "Ladies' bag", "price": "12"} and "'" in column_values(CsvTable(path), "title")[0]


def test_a_formula_of_a_text_is_the_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('sku,title\n"=""00123""","=""Bag """"L"""""""\n"=""00124""",=x\n')
    assert [row for _, row in CsvTable(path).rows()] == [{"sku": "00123", "title": 'Bag "L"'}, {"sku": "00124", "title": "=x"}]


def test_mysql_escapes(tmp_path: Path) -> None:
    body = '"1","Pot \\"retro\\", red","5.00","a\\\\b.png"\n"2","two\\\nlines",\\N,"c.png"\n"3","a\\0b",7,"d.png"\n'
    assert rows_of(open_csv(tmp_path, HEAD + body)) == [
        {"sku": "1", "title": 'Pot "retro", red', "price": "5.00", "image": "a\\b.png"},
        {"sku": "2", "title": "two\nlines", "price": None, "image": "c.png"},
        {"sku": "3", "title": "a\0b", "price": "7", "image": "d.png"},
    ]


def test_a_damaged_row_among_escapes_is_refused_alone(tmp_path: Path) -> None:
    good = '"1","Pot \\"retro\\"","5.00","a.png"\n'
    table = open_csv(tmp_path, HEAD + good * 3 + '"2","Pan,"6.00","b.png"\n' + good * 3)
    assert len(rows_of(table)) == 6 and refused(table) == [(5, "malformed_row")]


def test_a_backslash_stays_where_quotes_are_doubled(tmp_path: Path) -> None:
    body = '"1","a ""b"" \\n c","5","C:\\new\\a.png"\n"2","\\\\server\\x","6","\\"\n'
    assert [(row["title"], row["image"]) for row in rows_of(open_csv(tmp_path, HEAD + body))] == [
        ('a "b" \\n c', "C:\\new\\a.png"), ("\\\\server\\x", "\\"),
    ]  # fmt: skip


def test_doubled_backslashes_alone_are_refused_by_the_flag(tmp_path: Path) -> None:
    text = HEAD + '"1","a\\\\b","5","a.png"\n'
    with pytest.raises(UserError, match="--quoting"):
        open_csv(tmp_path, text)
    assert rows_of(open_csv(tmp_path, text, quoting="rfc"))[0]["title"] == "a\\\\b"
    assert rows_of(open_csv(tmp_path, text, quoting="backslash"))[0]["title"] == "a\\b"


def test_spaces_before_quotes_are_no_text(tmp_path: Path) -> None:
    table = open_csv(tmp_path, 'sku, title, price\n1, "Pot, red", 2.50\n2, "Pan", 3.50\n')
    assert [row["title"] for row in rows_of(table)] == ["Pot, red", "Pan"]


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path) -> None:
    body = "1,Pot\n2,Pot,4.00,p.png,extra\n3,Pot,4.00,p.png,,\n4\n,,,\n5,Pot,4.00\n,,,\n,,,\n\n"
    table = open_csv(tmp_path, HEAD + POTS + body)
    assert refused(table) == [(8, "wrong_number_of_columns"), (10, "wrong_number_of_columns"), (11, "empty_row")]
    assert rows_of(table)[5:] == [
        {"sku": "1", "title": "Pot", "price": "", "image": ""},
        {"sku": "3", "title": "Pot", "price": "4.00", "image": "p.png"},
        {"sku": "5", "title": "Pot", "price": "4.00", "image": ""},
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_read(end: str, tmp_path: Path) -> None:
    assert rows_of(open_csv(tmp_path, (HEAD + POTS).replace("\n", end).encode()))[0] == POT


def test_reading_quickly_gives_the_same_first_rows(tmp_path: Path) -> None:
    text = HEAD + "".join(f'{k},"Pot, {k}",{k}.50,p{k}.png\n' for k in range(20_000))
    quick, whole = open_csv(tmp_path, text, quick=True), open_csv(tmp_path, text)
    assert whole.count == 20_000 and abs(quick.count - whole.count) < 10
    assert [row for _, row in zip(range(50), quick.rows())] == [row for _, row in zip(range(50), whole.rows())]


@pytest.mark.parametrize("reading", [{}, {"header_line": 2}])
def test_a_first_line_too_long_to_name_columns_is_refused(
    reading: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "_LONGEST_SAMPLED", 100)
    text = "x," * 100 + "\nsku,title\n1,Hat\n"
    if not reading:
        with pytest.raises(UserError, match=r"line 1 has more than 100 characters; it must name the columns"):
            open_csv(tmp_path, text)
    else:  # where the user says which line names the columns, what is above it may be anything
        table = open_csv(tmp_path, text, **reading)
        assert rows_of(table) == [{"sku": "1", "title": "Hat"}] and table.count == 1


@pytest.mark.parametrize("quoting", [None, "none", "backslash", "rfc"])
def test_a_line_too_long_to_hold_costs_one_row(quoting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "read_line", lambda file: byte_streams.read_line(file, 1000))
    monkeypatch.setattr(csv_file, "_LONGEST_SAMPLED", 500)
    long = "y" * 5000
    text = f'sku,title\n1,Hat\n2,{long}\n3,Bag\n4,"{long}"\n5,Cap\n'
    table = open_csv(tmp_path, text.replace('"', "") if quoting == "none" else text, quoting=quoting)
    assert [row["title"] for row in rows_of(table)] == ["Hat", "Bag", "Cap"]
    assert [(line, reason) for line, reason in refused(table)] == [(3, "malformed_row"), (5, "malformed_row")]
