"""Rows are found in JSON of any form, and what is nested in a row stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.ingest.row import RowError
from data.ingest.tables import open_table
from data.ingest.values import readable
from mlx_phi3v.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"title": "Pot", "price": {"amount": 5.5}},
    {"title": "Pan", "images": [{"src": "a.jpg"}, {"src": "b.jpg"}]},
]
MANY = [{"title": f"Pot {k}", "images": [{"src": "a"}, {"src": "b"}, {"src": "c"}]} for k in range(5)]


def lines(rows: list[Any], join: str = "\n") -> str:
    return join.join(map(json.dumps, rows))


FORMS = {
    "list": json.dumps(ROWS),
    "indented list": json.dumps(ROWS, indent=2),
    "lines": lines(ROWS),
    "lines with a blank one and a mark": "\ufeff" + lines(ROWS, "\r\n\r\n"),
    "lines with commas": "[\n" + lines(ROWS, ",\n") + "\n]",
    "objects one after another": json.dumps(ROWS[0], indent=1) + "\n" + json.dumps(ROWS[1], indent=1),
    "objects without a line's end": lines(ROWS, " "),
    "inside": json.dumps({"count": 2, "products": ROWS}),
    "inside, indented": json.dumps({"count": 2, "products": ROWS}, indent=2),
    "deep inside": json.dumps({"data": {"shop": {"name": "A"}, "list": {"products": ROWS, "tags": ["x"]}}}),
    "beside a shorter list": json.dumps({"shops": [{"name": "A"}], "products": ROWS}),
    "phpMyAdmin's": json.dumps(
        [
            {"type": "header", "version": "5.2"},
            {"type": "database", "name": "shop"},
            {"type": "table", "name": "p", "data": ROWS},
        ]
    ),
    "edges": json.dumps({"data": {"products": {"edges": [{"node": row} for row in ROWS]}}}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["t.json", "t.dat"])
def test_the_rows_are_found(form: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[form], encoding="utf-8")
    table = open_table(tmp_path / name)
    assert [row for _, row in table.rows()] == ROWS
    assert table.count == 2 and list(table.columns) == ["images", "price", "title"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_any_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    rows = [{"title": "Grün 🧣"}, {"title": "漢"}]
    for text in (json.dumps(rows, ensure_ascii=False), "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)):
        (tmp_path / "t.json").write_bytes(text.encode(encoding))
        assert [row for _, row in open_table(tmp_path / "t.json").rows()] == rows


def test_the_lists_inside_rows_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"products": MANY, "total": 5}))
    table = open_table(tmp_path / "t.json")
    assert [row for _, row in table.rows()] == MANY
    assert "products" in table.notes[0]  # type: ignore[attr-defined]


def test_an_object_of_objects_gives_its_keys_as_a_column(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"A1": {"title": "Pot"}, "A2": {"title": "Pan"}}))
    assert [row for _, row in open_table(tmp_path / "t.json").rows()] == [
        {"key": "A1", "title": "Pot"}, {"key": "A2", "title": "Pan"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.ndjson"])
def test_one_conversation_is_a_row(name: str, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "images": ["a.png"]}
    (tmp_path / name).write_text(json.dumps(row))
    assert [found for _, found in open_table(tmp_path / name).rows()] == [row]


def test_the_one_line_of_a_file_of_lines_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(MANY[0]))
    assert [row for _, row in open_table(tmp_path / "t.jsonl").rows()] == MANY[:1]


BY_COLUMNS = {
    "pandas": {"title": {"0": "Pot", "1": "Pan"}, "price": {"0": {"amount": 5.5}, "1": None}},
    "lists": {"title": ["Pot", "Pan"], "price": [5.5, None]},
    "split": {"columns": ["title", "price"], "index": [0, 1], "data": [["Pot", 5.5], ["Pan", None]]},
    "a sheet's values": {"range": "A1:B3", "values": [["title", "price"], ["Pot", 5.5], ["Pan"]]},
    "lists below their names": [["title", "price"], ["Pot", 5.5], ["Pan", None]],
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", BY_COLUMNS)
def test_what_is_written_by_columns_is_read_by_rows(form: str, indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(BY_COLUMNS[form], indent=indent))
    table = open_table(tmp_path / "t.json")
    price = {"amount": 5.5} if form == "pandas" else 5.5
    assert [row for _, row in table.rows()] == [{"title": "Pot", "price": price}, {"title": "Pan", "price": None}]
    assert table.count == 2 and list(table.columns) == ["price", "title"]


def test_columns_behind_a_character_that_json_does_not_have_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "columns.json"
    path.write_bytes(b'{\x0b "title": ["Pot", "Pan"], "price": [5, 7]}')  # a vertical tab, which ijson passes over
    with pytest.raises(UserError, match=r"columns\.json is not valid JSON"):
        open_table(path)


def test_columns_that_are_too_large_to_hold_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.ingest.reading.json_columns._MOST_BYTES", 1000)
    numbers = {str(k): "x" * 50 for k in range(50)}
    (tmp_path / "t.json").write_text(json.dumps({"title": numbers, "image": numbers}, indent=1))
    with pytest.raises(UserError, match="is JSON by columns, of more than"):
        open_table(tmp_path / "t.json")


@pytest.mark.parametrize("indent", [None, 1])
def test_the_row_inside_what_an_api_wraps_around_it_is_the_row(indent: int | None, tmp_path: Path) -> None:
    fields: list[Any] = [{"feature_idx": k, "name": name, "type": {}} for k, name in enumerate(("title", "price", "image"))]
    viewer = {"features": fields, "rows": [{"row_idx": 0, "row": ROWS[0], "truncated_cells": []}]}
    search = {"hits": {"hits": [{"_index": "shop", "_id": str(k), "_source": row} for k, row in enumerate(ROWS)]}}
    api = {"data": [{"id": str(k), "type": "products", "attributes": row} for k, row in enumerate(ROWS)]}
    pandas = {"schema": {"fields": fields, "primaryKey": ["index"]}, "data": [{"index": k, **r} for k, r in enumerate(ROWS)]}
    airtable = {"records": [{"id": f"rec{k}", "createdTime": "2024", "fields": row} for k, row in enumerate(ROWS)]}
    entries = {"items": [{"sys": {"id": "1"}, "metadata": {"tags": []}, "fields": row} for row in ROWS]}
    shapes = {"viewer": viewer, "search": search, "api": api, "pandas": pandas, "airtable": airtable, "entries": entries}
    for name, found in shapes.items():
        (tmp_path / name).write_text(json.dumps(found, indent=indent))
        titles = [row["title"] for _, row in open_table(tmp_path / name).rows() if not isinstance(row, RowError)]
        assert titles == (["Pot"] if name == "viewer" else ["Pot", "Pan"]), name


def test_the_typed_values_of_dynamodb_and_firestore_are_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"Item": {"title": {"S": row["title"]}, "price": {"N": "5"}}}) + "\n" for row in ROWS)
    (tmp_path / "t.json").write_text(lines)
    rows = [row for _, row in open_table(tmp_path / "t.json").rows() if isinstance(row, dict)]
    assert [readable(row["title"]) for row in rows] == ["Pot", "Pan"]
    named = {"name": "projects/x/products/1", "createTime": "2024", "updateTime": "2024"}
    tags = {"arrayValue": {"values": [{"stringValue": "Red"}, {"stringValue": "Blue"}]}}
    fields = [{"title": {"stringValue": row["title"]}, "tags": tags} for row in ROWS]
    (tmp_path / "t.json").write_text(json.dumps({"documents": [{**named, "fields": row} for row in fields]}))
    rows = [row for _, row in open_table(tmp_path / "t.json").rows() if isinstance(row, dict)]
    assert [readable(row["title"]) for row in rows] == ["Pot", "Pan"]
    assert "name" not in rows[0] and readable(rows[0]["tags"]) == "Red, Blue"


def test_the_paths_of_json_lines_are_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"product": row}) + "\n" for row in ROWS))
    assert list(open_table(tmp_path / "t.jsonl").columns) == ["product"]


def test_lists_of_objects_alike_are_all_rows_and_a_list_of_another_kind_is_none(tmp_path: Path) -> None:
    lists = {"shirts": [{"title": "A", "price": 1}], "caps": [{"title": "B", "price": 2}, {"title": "C", "price": 3}]}
    (tmp_path / "t.json").write_text(json.dumps(lists))
    assert [row for _, row in open_table(tmp_path / "t.json").rows()] == [
        {"key": "shirts", "title": "A", "price": 1},
        {"key": "caps", "title": "B", "price": 2},
        {"key": "caps", "title": "C", "price": 3},
    ]
    (tmp_path / "t.json").write_text(json.dumps(lists | {"shops": [{"name": "x"}]}))
    assert [row["title"] for _, row in open_table(tmp_path / "t.json").rows() if isinstance(row, dict)] == ["B", "C"]


def test_the_pages_of_a_scrape_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([MANY[:2], MANY[2:]]))
    assert [row for _, row in open_table(tmp_path / "t.json").rows()] == MANY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"products": [{"a": 1}, {"a"', "not valid JSON"),
        ("[1, 2]", "holds no rows"),
        ("", "holds no rows"),
        ("{}", "holds no rows"),
        ('{"products": [{"a": "\udc80"}]}', "not valid JSON"),
    ],
)
def test_what_holds_no_rows_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=message) as error:
        list(open_table(tmp_path / "t.json").rows())
    assert "\n" not in str(error.value)


def test_a_broken_first_line_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"title": "a}\n{"title": "b"}\n{"title": "c"}\n')
    rows = [row for _, row in open_table(tmp_path / "t.jsonl").rows()]
    assert rows == ["malformed_row", {"title": "b"}, {"title": "c"}] and isinstance(rows[0], RowError)
